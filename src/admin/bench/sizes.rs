//! How large the blobs of a run are. Pure: a size follows from two draws between 0 and 1.

use std::{fmt, str::FromStr};

use crate::model::size;

/// The largest blob: what a coordinator takes unless it is told otherwise.
pub const MAX_SIZE_BYTES: u64 = 5 << 30;

/// The images that a photo site keeps: `(share of the blobs, smallest, largest)`, between which small ones are more
/// frequent. Facebook kept each photo in four sizes, over 260 billion images in over 20 petabytes ("Finding a needle in
/// Haystack", OSDI 2010): four equal shares, a mean of 77 kB. The few originals, and the limits between, are ours.
const PHOTOS: [(f64, u64, u64); 5] = [
    (0.246, 2 << 10, 6 << 10),
    (0.246, 6 << 10, 24 << 10),
    (0.246, 24 << 10, 96 << 10),
    (0.246, 96 << 10, 256 << 10),
    (0.016, 256 << 10, 4 << 20),
];

/// What `--size` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// All of this size.
    Fixed(u64),
    /// Between these two, as many from 1kb to 2kb as from 2kb to 4kb.
    Between(u64, u64),
    /// Like what a photo site keeps: thumbnails, previews, a few originals.
    Photos,
}

impl Sizes {
    /// The size of a blob for which these two numbers from 0 to 1 (not included) were drawn.
    pub fn pick(self, class: f64, within: f64) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Between(least, most) => log_uniform(least, most, within),
            Self::Photos => {
                let mut below = 0.0;
                let found = PHOTOS.iter().find(|(share, ..)| {
                    below += share;
                    class < below
                });
                // Shares that are added may come out a hair below 1.
                let (_, least, most) = found.unwrap_or(&PHOTOS[PHOTOS.len() - 1]);
                log_uniform(*least, *most, within)
            }
        }
    }
}

/// A size between two, each doubling as likely as the other.
fn log_uniform(least: u64, most: u64, draw: f64) -> u64 {
    let (from, to) = ((least.max(1) as f64).ln(), (most.max(1) as f64).ln());
    ((from + (to - from) * draw).exp().round() as u64).clamp(least, most)
}

impl FromStr for Sizes {
    type Err = String;

    /// Reads `16kb`, `4kb-1mb`, `photos`.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = |text: &str| {
            let bytes = size::parse(text).map_err(|error| error.to_string())?;
            match bytes > MAX_SIZE_BYTES {
                true => Err(format!("blobs have at most {}", size::format(MAX_SIZE_BYTES))),
                false => Ok(bytes),
            }
        };
        match text.split_once('-') {
            None if text == "photos" => Ok(Self::Photos),
            None => Ok(Self::Fixed(read(text)?)),
            Some((least, most)) => match (read(least)?, read(most)?) {
                (least, most) if least <= most => Ok(Self::Between(least, most)),
                _ => Err("the smaller size comes first: 4kb-1mb".to_owned()),
            },
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bytes) => f.write_str(&size::format(*bytes)),
            Self::Between(least, most) => {
                write!(f, "{}-{}", size::format(*least), size::format(*most))
            }
            Self::Photos => f.write_str("photos"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, shown) in
            [("16kb", "16kb"), ("0", "0b"), ("4kb-1mb", "4kb-1mb"), ("photos", "photos"), ("5gb", "5gb")]
        {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), shown);
        }
        for text in ["", "6gb", "1mb-4kb", "1kb-6gb", "pictures", "-1kb"] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_draw_gives_a_size_within_the_limits() {
        for draw in [0.0, 0.3, 0.5, 0.999_999_999] {
            assert_eq!(Sizes::Fixed(7).pick(draw, draw), 7);
            assert!((10..=20).contains(&Sizes::Between(10, 20).pick(draw, draw)));
            assert_eq!(Sizes::Between(0, 0).pick(draw, draw), 0);
        }
        assert_eq!(Sizes::Between(1024, 4096).pick(0.0, 0.5), 2048);
        assert_eq!((Sizes::Photos.pick(0.0, 0.0), Sizes::Photos.pick(1.0, 1.0)), (2 << 10, 4 << 20));
        assert!((PHOTOS.iter().map(|(share, ..)| share).sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
