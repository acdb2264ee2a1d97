//! The form of a blob's own file: segments of up to 64 MiB of data, each followed by the sums of its blocks. Pure.
//!
//! Sums are written as the data comes, so that receiving a blob of any length takes little memory, and stand at
//! places that follow from the length alone. The record in the volume that names the file is what makes it valid.

use std::ops::Range;

use bytes::{BufMut, BytesMut};

use super::blocks::{BLOCK_BYTES, around, block_count, crc32c};

/// Blocks of a segment; their sums fill 4 KiB.
const SEGMENT_BLOCKS: u64 = 1024;
const SEGMENT_BYTES: u64 = SEGMENT_BLOCKS * BLOCK_BYTES;
const SUM_BYTES: u64 = 4;

/// Bytes of the file of a blob of that length.
pub fn file_length(length: u64) -> u64 {
    length.saturating_add(SUM_BYTES * block_count(length))
}

/// What to read of the file to give out and to verify a span of the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whole blocks, as offsets in the file.
    pub blocks: Range<u64>,
    /// Their sums, as offsets in the file.
    pub sums: Range<u64>,
    /// What was asked for, inside the blocks.
    pub wanted: Range<usize>,
}

/// The pieces, one for each segment, that the span `start..end` of a blob of that length needs.
pub fn pieces(start: u64, end: u64, length: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut from = start;
    while from < end {
        let segment = from / SEGMENT_BYTES;
        let data_start = segment * SEGMENT_BYTES;
        let data_end = data_start.saturating_add(SEGMENT_BYTES).min(length);
        let to = end.min(data_end);
        let (first, last) = around(from, to, data_end);
        // In the file every segment before this one has its sums after it.
        let moved = segment * SEGMENT_BLOCKS * SUM_BYTES;
        let sums_at = data_end + moved + SUM_BYTES * ((first - data_start) / BLOCK_BYTES);
        pieces.push(Piece {
            blocks: first + moved..last + moved,
            sums: sums_at..sums_at + SUM_BYTES * block_count(last - first),
            wanted: (from - first) as usize..(to - first) as usize,
        });
        from = to;
    }
    pieces
}

/// Turns a blob's bytes, as they come, into the bytes of its file.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Bytes of the block that is not full yet.
    filled: u64,
    block: Option<crc_fast::Digest>,
    sums: Vec<u32>,
}

impl Encoder {
    /// Appends the next bytes, and sums where a segment ends.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            let room = (BLOCK_BYTES - self.filled) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.take(now);
            out.extend_from_slice(now);
            if self.sums.len() as u64 == SEGMENT_BLOCKS {
                self.put_sums(out);
            }
            bytes = later;
        }
    }

    fn take(&mut self, part: &[u8]) {
        if part.len() as u64 == BLOCK_BYTES {
            self.sums.push(crc32c(part));
            return;
        }
        let new = || crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        self.block.get_or_insert_with(new).update(part);
        self.filled += part.len() as u64;
        if self.filled == BLOCK_BYTES {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if let Some(block) = self.block.take() {
            self.sums.push(block.finalize() as u32);
        }
        self.filled = 0;
    }

    fn put_sums(&mut self, out: &mut BytesMut) {
        for sum in self.sums.drain(..) {
            out.put_u32_le(sum);
        }
    }

    /// Appends what comes after the last byte.
    pub fn finish(&mut self, out: &mut BytesMut) {
        self.close_block();
        self.put_sums(out);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::blocks::verify;

    fn encoded(parts: &[&[u8]]) -> BytesMut {
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for part in parts {
            encoder.push(part, &mut out);
        }
        encoder.finish(&mut out);
        out
    }

    fn read(file: &[u8], start: u64, end: u64, length: u64) -> Vec<u8> {
        let slice = |range: &Range<u64>| &file[range.start as usize..range.end as usize];
        let mut out = Vec::new();
        for piece in pieces(start, end, length) {
            verify(slice(&piece.blocks), slice(&piece.sums)).unwrap();
            out.extend_from_slice(&slice(&piece.blocks)[piece.wanted]);
        }
        out
    }

    #[test]
    fn spans_across_segments_are_found() {
        let length = SEGMENT_BYTES + 100_000;
        let blob: Vec<u8> = (0..length).map(|n| (n / 1000 % 251) as u8).collect();
        let file = encoded(&[&blob]);
        assert_eq!(file.len() as u64, file_length(length));
        for (start, end) in [
            (0, 1),
            (SEGMENT_BYTES - 1, SEGMENT_BYTES),
            (SEGMENT_BYTES - 1, SEGMENT_BYTES + 1),
            (SEGMENT_BYTES, SEGMENT_BYTES + 99_999),
            (SEGMENT_BYTES - 70_000, length),
            (length - 1, length),
            (5, 5),
        ] {
            assert!(read(&file, start, end, length) == blob[start as usize..end as usize], "{start}..{end}");
        }
    }

    #[test]
    fn places_stay_right_far_beyond_32_bits() {
        let length = (5 << 40) + 7;
        let piece = &pieces(length - 7, length, length)[0];
        assert_eq!(piece.blocks.end + SUM_BYTES * block_count(length % SEGMENT_BYTES), file_length(length));
        assert_eq!(piece.sums.end, file_length(length));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_cut_into_parts_gives_the_same_file(
            length in 0_usize..300_000,
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            span in any::<(proptest::sample::Index, proptest::sample::Index)>(),
        ) {
            let blob: Vec<u8> = (0..length).map(|n| (n % 253) as u8).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
            cuts.extend([0, length]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &blob[pair[0]..pair[1]]).collect();
            let file = encoded(&parts);
            prop_assert_eq!(&file, &encoded(&[&blob]));
            prop_assert_eq!(file.len() as u64, file_length(length as u64));
            let (a, b) = (span.0.index(length + 1), span.1.index(length + 1));
            let (start, end) = (a.min(b), a.max(b));
            prop_assert_eq!(read(&file, start as u64, end as u64, length as u64), &blob[start..end]);
        }
    }
}
