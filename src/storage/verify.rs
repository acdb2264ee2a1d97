//! Whether what is stored is what was written: a record, a whole file. It reads and changes nothing.

use std::{fmt, io, ops::Range};

use serde::{Deserialize, Serialize};

use super::{
    blocks::{self, BLOCK_BYTES},
    pairs,
    pread::{ReadAt, is_unreadable},
    record::{Head, Kind},
    whole,
};
use crate::model::{Checksum, Crc64};

/// Read at once; whole blocks.
const PIECE_BYTES: u64 = BLOCKS_OF_A_PIECE as u64 * BLOCK_BYTES;
const BLOCKS_OF_A_PIECE: usize = 4;
const SUMS_OF_A_PIECE: usize = 4 * BLOCKS_OF_A_PIECE;

/// What is wrong with something stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// The record's head is not what was written, so neither its key nor its version is known.
    Head,
    /// The bytes of the blob do not match their checksum.
    Checksum,
    /// A block of them does not match its checksum.
    Block,
    /// The headers kept with it make no sense.
    Meta,
    /// The disk says that it cannot read it.
    Unreadable,
    /// The volume ends before the blob does.
    Short,
    /// Its own file is gone.
    FileGone,
    /// Its own file has another length.
    FileLength,
    /// Bytes of a volume that are no record, and nobody knows whose they were.
    NoRecord,
    /// The superblock of a volume.
    Superblock,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "the record's head cannot be read",
            Self::Checksum => "the bytes do not match their checksum",
            Self::Block => "a block does not match its checksum",
            Self::Meta => "the metadata cannot be read",
            Self::Unreadable => "the disk cannot read it",
            Self::Short => "the volume ends before the blob",
            Self::FileGone => "its file is gone",
            Self::FileLength => "its file has another length",
            Self::NoRecord => "no record can be read there",
            Self::Superblock => "the superblock cannot be read",
        })
    }
}

/// Verifies all of a record but the file it may name. An error is one of the disk that says nothing about the record.
pub fn record(from: &dyn ReadAt, offset: u64, head: &Head<'_>) -> io::Result<Result<(), Wrong>> {
    if head.kind != Kind::Gap && pairs::decode(head.pairs).is_none() {
        return Ok(Err(Wrong::Meta));
    }
    data(from, offset, head)
}

/// Verifies the data of the record at that offset.
pub fn data(from: &dyn ReadAt, offset: u64, head: &Head<'_>) -> io::Result<Result<(), Wrong>> {
    if head.kind != Kind::Blob {
        return Ok(Ok(()));
    }
    let start = offset + head.length() as u64;
    let span = start..start + u64::from(head.data_len);
    let mut check = Check::new(from);
    // A blob of one block has no sum but its checksum.
    let sums = (!head.sums().is_empty()).then(|| head.sums());
    judge(check.blocks(span, sums).and_then(|()| check.matches(head.checksum)))
}

/// Verifies the file of a blob of that length; `on_disk` is the length of the file. With the blob's checksum, if that is
/// known. Errors as for [`record`].
pub fn file(
    from: &dyn ReadAt,
    on_disk: u64,
    length: u64,
    checksum: Option<Checksum>,
) -> io::Result<Result<(), Wrong>> {
    if on_disk != whole::file_length(length) {
        return Ok(Err(Wrong::FileLength));
    }
    let mut check = Check::new(from);
    let mut segments = || {
        for segment in whole::pieces(0, length, length) {
            let sums = check.sums(segment.sums)?;
            check.blocks(segment.blocks, Some(&sums))?;
        }
        checksum.map_or(Ok(()), |checksum| check.matches(checksum))
    };
    judge(segments())
}

/// Why a check went no further.
enum Fault {
    Wrong(Wrong),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if is_unreadable(&error) { Self::Wrong(Wrong::Unreadable) } else { Self::Io(error) }
    }
}

fn judge(checked: Result<(), Fault>) -> io::Result<Result<(), Wrong>> {
    match checked {
        Ok(()) => Ok(Ok(())),
        Err(Fault::Wrong(wrong)) => Ok(Err(wrong)),
        Err(Fault::Io(error)) => Err(error),
    }
}

struct Check<'a> {
    from: &'a dyn ReadAt,
    crc: Crc64,
    buffer: Vec<u8>,
}

impl<'a> Check<'a> {
    fn new(from: &'a dyn ReadAt) -> Self {
        Self { from, crc: Crc64::default(), buffer: Vec::new() }
    }

    /// Reads that span, which begins with a block; its blocks match their sums, where there are sums.
    fn blocks(&mut self, span: Range<u64>, sums: Option<&[u8]>) -> Result<(), Fault> {
        let mut sums = sums.map(|sums| sums.chunks(SUMS_OF_A_PIECE));
        let mut at = span.start;
        while at < span.end {
            self.buffer.resize((span.end - at).min(PIECE_BYTES) as usize, 0);
            if self.from.read_full(&mut self.buffer, at)? < self.buffer.len() {
                return Err(Fault::Wrong(Wrong::Short));
            }
            if let Some(sums) = &mut sums {
                let sums = sums.next().unwrap_or_default();
                blocks::verify(&self.buffer, sums).map_err(|_| Fault::Wrong(Wrong::Block))?;
            }
            self.crc.update(&self.buffer);
            at += self.buffer.len() as u64;
        }
        Ok(())
    }

    fn sums(&self, span: Range<u64>) -> Result<Vec<u8>, Fault> {
        let mut sums = vec![0; (span.end - span.start) as usize];
        if self.from.read_full(&mut sums, span.start)? < sums.len() {
            return Err(Fault::Wrong(Wrong::Short));
        }
        Ok(sums)
    }

    /// All that was read has that checksum.
    fn matches(&self, checksum: Checksum) -> Result<(), Fault> {
        if self.crc.finish() == checksum { Ok(()) } else { Err(Fault::Wrong(Wrong::Checksum)) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{
        model::Version,
        storage::record::{NewHead, Seal},
    };

    impl ReadAt for Vec<u8> {
        fn read_full(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let there = self.get(offset as usize..).unwrap_or_default();
            let length = there.len().min(buffer.len());
            buffer[..length].copy_from_slice(&there[..length]);
            Ok(length)
        }
    }

    #[test]
    fn a_flip_in_any_part_of_a_record_s_data_is_found() {
        let seal = Seal::new([7; 16], 1);
        for length in [0_usize, 1, 65_536, 65_537, 600_000] {
            let data: Vec<u8> = (0..length).map(|n| (n / 7) as u8).collect();
            let sums = blocks::block_sums(&data);
            let head = NewHead {
                kind: Kind::Blob,
                starts_batch: true,
                version: Version::from_parts(1, 1),
                checksum: Checksum::of(&data),
                data_len: length as u32,
                key: b"key",
                pairs: &[],
                file: None,
                sums: if sums.len() > 1 { &sums } else { &[] },
            };
            let mut bytes = vec![0; 100];
            head.encode(&mut bytes, &seal, 100);
            let data_at = bytes.len();
            bytes.extend_from_slice(&data);
            let of = |bytes: &Vec<u8>| {
                record(bytes, 100, &Head::decode(&bytes[100..], &seal, 100).unwrap()).unwrap()
            };
            assert_eq!(of(&bytes), Ok(()), "{length}");
            for at in [0, length / 2, length.saturating_sub(1)].into_iter().filter(|at| *at < length) {
                bytes[data_at + at] ^= 4;
                let wrong = if length > 65_536 { Wrong::Block } else { Wrong::Checksum };
                assert_eq!(of(&bytes), Err(wrong), "{at} of {length}");
                bytes[data_at + at] ^= 4;
            }
            if length > 0 {
                bytes.pop();
                assert_eq!(of(&bytes), Err(Wrong::Short), "{length}");
            }
        }
    }

    #[test]
    fn a_flip_anywhere_in_a_whole_file_is_found() {
        for length in [0_usize, 1, 65_537, (64 << 20) + 70_000] {
            let data: Vec<u8> = (0..length as u32).map(|n| (n / 7) as u8).collect();
            let (mut encoder, mut bytes) = (whole::Encoder::default(), BytesMut::new());
            encoder.push(&data, &mut bytes);
            encoder.finish(&mut bytes);
            let mut bytes = bytes.to_vec();
            let checksum = Checksum::of(&data);
            let of = |bytes: &Vec<u8>, checksum| {
                file(bytes, bytes.len() as u64, length as u64, Some(checksum)).unwrap()
            };
            assert_eq!(of(&bytes, checksum), Ok(()), "{length}");
            // Data of the first and the last segment, sums of both.
            let end = bytes.len();
            let places = [0, length / 2, length.saturating_sub(1), (64 << 20) + 5, end.saturating_sub(1)];
            for at in places.into_iter().filter(|at| *at < end) {
                bytes[at] ^= 4;
                assert_eq!(of(&bytes, checksum), Err(Wrong::Block), "{at} of {length}");
                bytes[at] ^= 4;
            }
            assert_eq!(of(&bytes, Checksum(!checksum.0)), Err(Wrong::Checksum));
            bytes.push(0);
            assert_eq!(of(&bytes, checksum), Err(Wrong::FileLength));
        }
    }

    /// Reads nothing from a place on.
    struct Failing(i32);

    impl ReadAt for Failing {
        fn read_full(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(self.0))
        }
    }

    #[test]
    fn what_the_disk_cannot_read_is_wrong_and_any_other_error_says_nothing() {
        let of = |errno: rustix::io::Errno| file(&Failing(errno.raw_os_error()), 14, 10, None);
        assert_eq!(of(rustix::io::Errno::IO).unwrap(), Err(Wrong::Unreadable));
        assert!(of(rustix::io::Errno::MFILE).is_err());
    }
}
