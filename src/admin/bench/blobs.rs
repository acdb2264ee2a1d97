//! The blobs of a run. All of one follows from its number and the seed: its key, its size, its bytes. Nothing is kept of
//! it, and nothing is allocated for its bytes: they are cut out of one piece of noise, which no server can compress.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::sizes::Sizes;

/// The noise; a larger blob goes round in it.
const NOISE_BYTES: usize = 8 << 20;

/// The blobs of a run.
pub struct Blobs {
    folder: String,
    sizes: Sizes,
    seed: u64,
    noise: Bytes,
}

impl Blobs {
    /// Blobs in a folder of keys.
    pub fn new(folder: String, sizes: Sizes, seed: u64) -> Self {
        let mut noise = vec![0; NOISE_BYTES];
        fastrand::Rng::with_seed(seed).fill(&mut noise);
        Self { folder, sizes, seed, noise: noise.into() }
    }

    /// What all keys begin with, without a slash.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The key of a blob.
    pub fn key(&self, number: u32) -> String {
        format!("{}/{number}", self.folder)
    }

    /// The size of a blob.
    pub fn size(&self, number: u32) -> u64 {
        self.sizes.pick(fraction(self.draw(number, 1)), fraction(self.draw(number, 2)))
    }

    /// The bytes of a blob.
    pub fn content(&self, number: u32) -> Content {
        let at = self.draw(number, 3) as usize % NOISE_BYTES;
        Content { noise: self.noise.clone(), at, left: self.size(number) }
    }

    /// A random number that belongs to this blob.
    fn draw(&self, number: u32, what: u64) -> u64 {
        xxh3_64_with_seed(&number.to_le_bytes(), self.seed.wrapping_mul(4).wrapping_add(what))
    }
}

/// Of 64 random bits, a number from 0 to 1 (not included).
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// The bytes of a blob that are left: a request's body, or what an answer is compared with.
#[derive(Clone)]
pub struct Content {
    noise: Bytes,
    at: usize,
    left: u64,
}

impl Content {
    /// No bytes.
    pub fn empty() -> Self {
        Self { noise: Bytes::new(), at: 0, left: 0 }
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.left
    }

    /// Whether the next bytes are these; goes beyond them.
    pub fn goes_on_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some(next) = self.next(bytes.len()) else { return false };
            if bytes[..next.len()] != next[..] {
                return false;
            }
            bytes = &bytes[next.len()..];
        }
        true
    }

    /// The next bytes, at most so many; `None` at the end.
    pub fn next(&mut self, most: usize) -> Option<Bytes> {
        let length = most.min(self.noise.len() - self.at).min(usize::try_from(self.left).unwrap_or(most));
        if length == 0 {
            return None;
        }
        let next = self.noise.slice(self.at..self.at + length);
        self.left -= length as u64;
        self.at = (self.at + length) % self.noise.len();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blobs(sizes: &str, seed: u64) -> Blobs {
        Blobs::new("bench-1".to_owned(), sizes.parse().unwrap(), seed)
    }

    fn bytes(mut content: Content) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(next) = content.next(100_000) {
            all.extend_from_slice(&next);
        }
        all
    }

    #[test]
    fn the_same_seed_gives_the_same_blobs() {
        let (one, same, other) = (blobs("photos", 7), blobs("photos", 7), blobs("photos", 8));
        let sizes = |blobs: &Blobs| (0..100).map(|number| blobs.size(number)).collect::<Vec<_>>();
        assert_eq!(sizes(&one), sizes(&same));
        assert_ne!(sizes(&one), sizes(&other));
        assert_eq!(bytes(one.content(3)), bytes(same.content(3)));
        assert_ne!(bytes(one.content(3)), bytes(one.content(4)));
        assert_eq!(one.key(3), "bench-1/3");
    }

    #[test]
    fn photos_have_the_mean_of_a_photo_site_and_some_have_megabytes() {
        let blobs = blobs("photos", 1);
        let mut sizes: Vec<u64> = (0..20_000).map(|number| blobs.size(number)).collect();
        sizes.sort_unstable();
        let mean = sizes.iter().sum::<u64>() / 20_000;
        assert!((72_000..88_000).contains(&mean), "{mean}");
        assert!((20 << 10..28 << 10).contains(&sizes[10_000]), "{}", sizes[10_000]);
        assert!(sizes[19_900] > 1 << 20 && sizes[0] < 3 << 10, "{} {}", sizes[0], sizes[19_900]);
    }

    #[test]
    fn a_blob_larger_than_the_noise_has_all_its_bytes_and_is_recognised() {
        let length = NOISE_BYTES as u64 * 2 + 17;
        let blobs = blobs(&length.to_string(), 1);
        let all = bytes(blobs.content(5));
        assert_eq!(all.len() as u64, length);
        assert_eq!(all[..17], all[NOISE_BYTES..NOISE_BYTES + 17]);
        let mut expected = blobs.content(5);
        assert!(all.chunks(100_003).all(|part| expected.goes_on_with(part)));
        assert_eq!(expected.len(), 0);
        assert!(!expected.goes_on_with(b"x"), "it is at its end");
        let mut wrong = all[..1000].to_vec();
        wrong[999] ^= 1;
        assert!(!blobs.content(5).goes_on_with(&wrong));
    }

    #[test]
    fn an_empty_blob_is_empty() {
        let content = blobs("0", 1).content(0);
        assert!(content.len() == 0 && bytes(content).is_empty() && Content::empty().next(1).is_none());
    }
}
