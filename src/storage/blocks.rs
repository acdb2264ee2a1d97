//! CRC-32C per block of a blob, so that a range is verified without reading the rest. Pure.

/// A blob's bytes are summed in blocks of this size: four to a read of [`super::READ_CHUNK_BYTES`], 4 bytes of sum for
/// each.
pub const BLOCK_BYTES: u64 = 64 << 10;

/// CRC-32C (Castagnoli) of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// How many blocks a blob of that length has.
pub fn block_count(length: u64) -> u64 {
    length.div_ceil(BLOCK_BYTES)
}

/// The sums of all blocks of `bytes`.
pub fn block_sums(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(BLOCK_BYTES as usize).map(crc32c).collect()
}

/// The span of whole blocks around `start..end` of a blob of that length.
pub fn around(start: u64, end: u64, length: u64) -> (u64, u64) {
    let first = start / BLOCK_BYTES * BLOCK_BYTES;
    (first, end.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).min(length))
}

/// Whether whole blocks match their sums (4 bytes each, little-endian). Gives the number of the first that does not.
pub fn verify(blocks: &[u8], sums: &[u8]) -> Result<(), usize> {
    let mut sums = sums.chunks_exact(4);
    for (number, block) in blocks.chunks(BLOCK_BYTES as usize).enumerate() {
        if sums.next() != Some(&crc32c(block).to_le_bytes()) {
            return Err(number);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value() {
        // The check value of CRC-32/ISCSI in the catalogue of CRC parameters.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn spans_are_whole_blocks() {
        assert_eq!(around(0, 1, 10), (0, 10));
        assert_eq!(around(65_536, 65_537, 200_000), (65_536, 131_072));
        assert_eq!(around(65_535, 131_073, 200_000), (0, 196_608));
        assert_eq!(around(199_999, 200_000, 200_000), (196_608, 200_000));
        assert_eq!(around(0, 0, 0), (0, 0));
        assert_eq!(block_count(0), 0);
        assert_eq!(block_count(65_537), 2);
    }

    #[test]
    fn finds_the_block_that_changed() {
        let mut bytes = vec![7_u8; 150_000];
        let sums: Vec<u8> = block_sums(&bytes).iter().flat_map(|sum| sum.to_le_bytes()).collect();
        assert_eq!(verify(&bytes, &sums), Ok(()));
        bytes[140_000] ^= 1;
        assert_eq!(verify(&bytes, &sums), Err(2));
        assert_eq!(verify(&bytes, &sums[..8]), Err(2));
    }
}
