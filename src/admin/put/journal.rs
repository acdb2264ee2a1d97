//! The journal: one JSON line for each file that was uploaded. It is what makes an upload resumable, and the map from
//! a file's path to the `/<shard>:<key>` that reads it back.
//!
//! A line is appended after the coordinator's answer, so a line never promises what is not stored. A torn last line
//! (kill -9 in mid write) is cut off when the journal is opened; its file is uploaded again.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{File, Metadata},
    io::{BufRead, BufReader, Read, Seek, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::{
    daemon::LockedFile,
    model::{Checksum, Key, ShardId, Version},
};

/// A longer line is none of ours: a path has at most 4,096 bytes, of which JSON makes at most six each.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// Every line begins so.
const LINE_START: &[u8] = br#"{"path":""#;

/// What tells that a file was changed: its size in bytes and when its content was last modified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) size: u64,
    /// Seconds since 1970 with nine decimals, as text: a JSON number would be rounded by some readers.
    pub(super) mtime: String,
}

impl FileState {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let mtime = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        Self { size: metadata.len(), mtime }
    }
}

/// One uploaded file: a line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The path below the folder; bytes that are no UTF-8 are replaced, see `path_bytes`.
    path: String,
    /// Base64 of the path's bytes, where they are no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    /// Where it is: read it back as `/<shard>:<key>`.
    pub shard: ShardId,
    /// Its key.
    pub key: Key,
    /// Its version; the original's coordinator gives none.
    pub version: Option<Version>,
    /// Its length in bytes.
    pub length: u64,
    /// CRC-64/NVME of its bytes.
    pub checksum: Checksum,
    /// When the file was modified, before it was read: seconds since 1970 with nine decimals.
    mtime: String,
}

/// What a coordinator said about an upload.
pub(super) struct Placed {
    pub(super) shard: ShardId,
    pub(super) version: Option<Version>,
}

impl Entry {
    pub(super) fn new(path: &Path, state: FileState, key: Key, checksum: Checksum, placed: Placed) -> Self {
        let bytes = path.as_os_str().as_bytes();
        let path_bytes = std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes));
        Self {
            path: path.to_string_lossy().into_owned(),
            path_bytes,
            shard: placed.shard,
            key,
            version: placed.version,
            length: state.size,
            checksum,
            mtime: state.mtime,
        }
    }

    /// The path below the folder.
    pub fn path(&self) -> PathBuf {
        let bytes = self.path_bytes.as_ref().and_then(|text| STANDARD.decode(text).ok());
        bytes.map_or_else(|| PathBuf::from(&self.path), |bytes| OsString::from_vec(bytes).into())
    }

    pub(super) fn state(&self) -> FileState {
        FileState { size: self.length, mtime: self.mtime.clone() }
    }
}

/// What was uploaded already. Two hashes a file, so that a journal of millions fits in memory; the last line about a
/// path counts.
#[derive(Debug, Default)]
pub(super) struct Done(HashMap<u128, u128>);

impl Done {
    /// Whether this file was uploaded under this key and was not changed since.
    pub(super) fn holds(&self, path: &Path, state: &FileState, key: &Key) -> bool {
        self.0.get(&hash_path(path)) == Some(&hash_upload(state, key))
    }

    fn add(&mut self, entry: &Entry) {
        self.0.insert(hash_path(&entry.path()), hash_upload(&entry.state(), &entry.key));
    }
}

pub(super) fn hash_path(path: &Path) -> u128 {
    xxh3_128(path.as_os_str().as_bytes())
}

fn hash_upload(state: &FileState, key: &Key) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&state.size.to_le_bytes());
    hash.update(state.mtime.as_bytes());
    hash.update(key.as_str().as_bytes());
    hash.digest128()
}

/// A journal that is written; locked against a second run.
pub(super) struct Journal {
    file: LockedFile,
    path: PathBuf,
}

impl Journal {
    /// Opens or makes a journal and reads what it says. Also gives the number of its lines that cannot be read: their
    /// files are uploaded again. A file that is no journal is an error, and is left as it is.
    pub(super) fn open(path: &Path) -> anyhow::Result<(Self, Done, u64)> {
        let name = path.display();
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("open the journal {name} (--journal FILE chooses another place)"))?;
        let Some(file) = LockedFile::try_new(file).with_context(|| format!("lock the journal {name}"))?
        else {
            bail!(
                "another upload is using the journal {name}; wait for its end, or give --journal FILE another one"
            );
        };
        let copy = file.try_clone().with_context(|| format!("read the journal {name}"))?;
        let mut lines = Lines::new(copy, path)?;
        let mut done = Done::default();
        let mut unreadable = 0;
        while let Some(line) = lines.next()? {
            match line {
                Line::Entry(entry) => done.add(&entry),
                Line::Unreadable => unreadable += 1,
            }
        }
        let end = lines.whole_bytes;
        file.set_len(end).with_context(|| format!("cut the torn end off the journal {name}"))?;
        Ok((Self { file, path: path.to_owned() }, done, unreadable))
    }

    /// Appends a line. After an error the journal must not be written any more: the line may be torn.
    pub(super) fn append(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let name = self.path.display();
        let mut line = serde_json::to_vec(entry).with_context(|| format!("write the journal {name}"))?;
        line.push(b'\n');
        (&*self.file).write_all(&line).with_context(|| format!("write the journal {name}"))
    }

    /// Makes sure that it survives a power cut.
    pub(super) fn sync(&self) -> anyhow::Result<()> {
        self.file.sync_data().with_context(|| format!("write the journal {}", self.path.display()))
    }

    /// Device and inode: what tells it from the files that are uploaded, whatever it is called.
    pub(super) fn identity(&self) -> anyhow::Result<(u64, u64)> {
        let metadata = self.file.metadata().with_context(|| format!("look at {}", self.path.display()))?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

/// A whole line of a journal.
pub(super) enum Line {
    Entry(Box<Entry>),
    Unreadable,
}

/// Reads a journal line by line; a torn last line is left out.
pub(super) struct Lines {
    reader: BufReader<File>,
    name: PathBuf,
    /// Bytes of all whole lines so far.
    pub(super) whole_bytes: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// From the file's beginning.
    pub(super) fn new(mut file: File, name: &Path) -> anyhow::Result<Self> {
        file.rewind().with_context(|| format!("read the journal {}", name.display()))?;
        Ok(Self { reader: BufReader::new(file), name: name.to_owned(), whole_bytes: 0, buffer: Vec::new() })
    }

    /// The next whole line; `None` at the end.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Line>> {
        let name = self.name.display();
        self.buffer.clear();
        let read = (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut self.buffer);
        let read = read.with_context(|| format!("read the journal {name}"))? as u64;
        let is_whole = self.buffer.last() == Some(&b'\n');
        let entry = serde_json::from_slice::<Entry>(&self.buffer).ok().filter(|_| is_whole);
        let begins_well =
            self.buffer.starts_with(LINE_START) || !is_whole && LINE_START.starts_with(&self.buffer);
        let is_first = self.whole_bytes == 0;
        if read == MAX_LINE_BYTES || is_first && entry.is_none() && !begins_well {
            bail!("{name} is not a journal of uploads; give --journal FILE a file of its own");
        }
        if !is_whole {
            return Ok(None);
        }
        self.whole_bytes += read;
        Ok(Some(entry.map_or(Line::Unreadable, |entry| Line::Entry(Box::new(entry)))))
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs};

    use super::*;

    fn entry(path: &[u8], mtime: &str) -> Entry {
        let state = FileState { size: 3, mtime: mtime.to_owned() };
        let placed = Placed { shard: "1".parse().unwrap(), version: Some(Version::from_parts(1, 2)) };
        let path = Path::new(OsStr::from_bytes(path));
        Entry::new(path, state, "k".parse().unwrap(), Checksum::of(b"abc"), placed)
    }

    fn holds(done: &Done, entry: &Entry) -> bool {
        done.holds(&entry.path(), &entry.state(), &entry.key)
    }

    #[test]
    fn a_line_says_all_and_comes_back() {
        let line = serde_json::to_string(&entry(b"a/b", "1.000000002")).unwrap();
        let expected = r#"{"path":"a/b","shard":"1","key":"k","version":"00000000010000000000000002","length":3,"checksum":"SUM","mtime":"1.000000002"}"#;
        assert_eq!(line, expected.replace("SUM", &Checksum::of(b"abc").to_string()));
        for path in [&b"a/b"[..], b"a\xffb", b"quote\"", "фото".as_bytes()] {
            let before = entry(path, "1.000000002");
            let after: Entry = serde_json::from_slice(&serde_json::to_vec(&before).unwrap()).unwrap();
            assert_eq!(after, before);
            assert_eq!(after.path().as_os_str().as_bytes(), path);
        }
    }

    #[test]
    fn the_last_line_about_a_path_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (first, second) = (entry(b"a", "1.0"), entry(b"a", "2.0"));
        let (mut journal, ..) = Journal::open(&path).unwrap();
        journal.append(&first).unwrap();
        journal.append(&second).unwrap();
        drop(journal);
        let (_, done, _) = Journal::open(&path).unwrap();
        assert!(holds(&done, &second) && !holds(&done, &first));
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (first, second) = (entry(b"a", "1.0"), entry(b"b", "2.0"));
        let (mut journal, ..) = Journal::open(&path).unwrap();
        journal.append(&first).unwrap();
        let one_line = fs::metadata(&path).unwrap().len();
        journal.append(&second).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, done, unreadable) = Journal::open(&path).unwrap();
            assert_eq!(holds(&done, &first), length as u64 >= one_line, "{length} bytes");
            assert!(!holds(&done, &second) && unreadable == 0, "{length} bytes");
            journal.append(&second).unwrap();
            drop(journal);
            let (_, done, unreadable) = Journal::open(&path).unwrap();
            assert!(holds(&done, &second) && unreadable == 0, "{length} bytes");
        }
    }

    #[test]
    fn a_damaged_line_costs_only_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let (first, second) = (entry(b"a", "1.0"), entry(b"b", "2.0"));
        let line = |entry| serde_json::to_string(entry).unwrap();
        fs::write(&path, format!("{}\n\0\0garbage\n{}\n", line(&first), line(&second))).unwrap();
        let (_, done, unreadable) = Journal::open(&path).unwrap();
        assert!(holds(&done, &first) && holds(&done, &second));
        assert_eq!(unreadable, 1);
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.jpg");
        for content in [&b"\xff\xd8\xff no line end"[..], b"text\nmore text\n", &[b'x'; 100_000]] {
            fs::write(&path, content).unwrap();
            assert!(Journal::open(&path).is_err());
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn two_runs_cannot_use_one_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let _first = Journal::open(&path).unwrap();
        assert!(Journal::open(&path).is_err());
    }
}
