//! Metadata as it stands in a record: for each pair two lengths of 16 bits (little-endian), the name, the value. Pure.

use crate::model::Meta;

/// Longest encoded metadata. Headers are limited to [`crate::model::meta::MAX_META_BYTES`] before; this bounds what
/// any caller and any bytes on the disk can ask for.
pub const MAX_PAIRS_BYTES: usize = 32 << 10;

/// The pairs as bytes; `None` if they are longer than [`MAX_PAIRS_BYTES`].
pub fn encode(meta: &Meta) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (name, value) in meta.pairs() {
        out.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    (out.len() <= MAX_PAIRS_BYTES).then_some(out)
}

/// The pairs in these bytes; `None` if they are not what [`encode`] writes.
pub fn decode(mut bytes: &[u8]) -> Option<Meta> {
    let mut pairs = Vec::new();
    while !bytes.is_empty() {
        let name_len = take_u16(&mut bytes)?;
        let value_len = take_u16(&mut bytes)?;
        pairs.push((take_text(&mut bytes, name_len)?, take_text(&mut bytes, value_len)?));
    }
    Some(Meta::from_pairs(pairs))
}

fn take_u16(bytes: &mut &[u8]) -> Option<usize> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    *bytes = rest;
    Some(usize::from(u16::from_le_bytes(*number)))
}

fn take_text(bytes: &mut &[u8], length: usize) -> Option<String> {
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pairs_come_back(pairs in proptest::collection::vec((".{0,20}", ".{0,40}"), 0..8)) {
            let meta = Meta::from_pairs(pairs);
            prop_assert_eq!(decode(&encode(&meta).unwrap()), Some(meta));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(meta) = decode(&bytes) {
                prop_assert_eq!(encode(&meta).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn too_long_is_refused() {
        let pairs = |bytes: usize| Meta::from_pairs(vec![("n".into(), "v".repeat(bytes))]);
        assert!(encode(&pairs(MAX_PAIRS_BYTES - 5)).is_some());
        assert!(encode(&pairs(MAX_PAIRS_BYTES - 4)).is_none());
        assert!(encode(&pairs(70_000)).is_none());
    }
}
