//! The tree of documents as keys and values, and its rules, which are ZooKeeper's.
//!
//! | key | value |
//! |---|---|
//! | `map` + absolute path | version (4 bytes, big-endian), number of its last change (8), data |
//! | `map-owner` + absolute path | for announced documents: who announced it |
//! | `map-changes` | number of the last change (8) |

use std::collections::HashMap;

use bytes::Bytes;

use crate::{
    cluster::{Edit, Entry, StoreError, path},
    embedded::{Error, Reader, Writer},
};

const DOCUMENT: &str = "map";
const OWNER: &str = "map-owner";
const CHANGES: &[u8] = b"map-changes";

/// Bytes before the data.
const HEADER: usize = 4 + 8;

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::BadKey(bytes) => Self::Invalid(format!("a path of {bytes} bytes is too long")),
            Error::Format { .. } => Self::Invalid(error.to_string()),
            Error::Full(_) | Error::Failed { .. } | Error::GivenUp => Self::Unavailable(error.to_string()),
        }
    }
}

fn key(kind: &str, absolute: &str) -> Vec<u8> {
    [kind, absolute].concat().into_bytes()
}

/// A document with the number of its last change.
struct Stored<'t> {
    version: i32,
    change: u64,
    data: &'t [u8],
}

fn decode(value: &[u8]) -> Result<Stored<'_>, StoreError> {
    let damaged = || StoreError::Invalid("a document of the embedded store is damaged".into());
    let (version, rest) = value.split_first_chunk().ok_or_else(damaged)?;
    let (change, data) = rest.split_first_chunk().ok_or_else(damaged)?;
    Ok(Stored { version: i32::from_be_bytes(*version), change: u64::from_be_bytes(*change), data })
}

/// One document.
pub(super) fn get(reader: &Reader<'_>, absolute: &str) -> Result<Option<Entry>, StoreError> {
    let Some(value) = reader.get(&key(DOCUMENT, absolute))? else { return Ok(None) };
    let stored = decode(value)?;
    Ok(Some(Entry { data: Bytes::copy_from_slice(stored.data), version: stored.version }))
}

/// Names directly below a path, sorted.
pub(super) fn children(reader: &Reader<'_>, absolute: &str) -> Result<Vec<String>, StoreError> {
    let slash = if absolute == "/" { "" } else { "/" };
    let prefix = [DOCUMENT, absolute, slash].concat();
    let mut names = Vec::new();
    for entry in reader.scan(prefix.as_bytes())? {
        let name = &entry?.0[prefix.len()..];
        if !name.is_empty() && !name.contains(&b'/') {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(names)
}

/// The number of the last change of any document.
pub(super) fn last_change(reader: &Reader<'_>) -> Result<u64, StoreError> {
    Ok(reader.get(CHANGES)?.and_then(|value| value.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Absolute path of each document -> number of its last change.
pub(super) fn all_changes(reader: &Reader<'_>) -> Result<HashMap<String, u64>, StoreError> {
    let mut changes = HashMap::new();
    for entry in reader.scan(&key(DOCUMENT, "/"))? {
        let (key, value) = entry?;
        let path = String::from_utf8_lossy(&key[DOCUMENT.len()..]).into_owned();
        changes.insert(path, decode(value)?.change);
    }
    Ok(changes)
}

/// Announced documents: absolute path and owner.
pub(super) fn owned(reader: &Reader<'_>) -> Result<Vec<(String, String)>, StoreError> {
    let mut owned = Vec::new();
    for entry in reader.scan(&key(OWNER, "/"))? {
        let (key, owner) = entry?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        owned.push((text(&key[OWNER.len()..]), text(owner)));
    }
    Ok(owned)
}

/// Changes documents within one transaction.
pub(super) struct Change<'w, 't> {
    writer: &'w mut Writer<'t>,
    number: u64,
}

impl<'w, 't> Change<'w, 't> {
    /// The next change.
    pub(super) fn begin(writer: &'w mut Writer<'t>) -> Result<Self, StoreError> {
        let number = last_change(&writer.reader())? + 1;
        writer.put(CHANGES, &number.to_be_bytes())?;
        Ok(Self { writer, number })
    }

    fn get(&self, absolute: &str) -> Result<Option<Entry>, StoreError> {
        get(&self.writer.reader(), absolute)
    }

    fn put(&mut self, absolute: &str, version: i32, data: &[u8]) -> Result<(), StoreError> {
        let mut value = Vec::with_capacity(HEADER + data.len());
        value.extend(version.to_be_bytes());
        value.extend(self.number.to_be_bytes());
        value.extend(data);
        Ok(self.writer.put(&key(DOCUMENT, absolute), &value)?)
    }

    fn remove(&mut self, absolute: &str) -> Result<(), StoreError> {
        self.writer.delete(&key(OWNER, absolute))?;
        self.writer.delete(&key(DOCUMENT, absolute))?;
        Ok(())
    }

    /// Makes a document where it is missing; its parent must be there.
    pub(super) fn make(&mut self, absolute: &str) -> Result<(), StoreError> {
        self.check_parent(absolute)?;
        if self.get(absolute)?.is_none() { self.put(absolute, 0, b"") } else { Ok(()) }
    }

    fn check_parent(&self, absolute: &str) -> Result<(), StoreError> {
        let parent = path::parent(absolute);
        if parent == "/" || self.get(parent)?.is_some() {
            return Ok(());
        }
        Err(StoreError::NotInitialised { path: parent.to_owned() })
    }

    /// Makes one edit; `absolute` is its path.
    pub(super) fn apply(&mut self, edit: &Edit, absolute: &str) -> Result<(), StoreError> {
        let found = self.get(absolute)?;
        let conflict = |path: &str| Err(StoreError::Conflict { path: path.to_owned() });
        match edit {
            Edit::Create { path, data } => {
                self.check_parent(absolute)?;
                if found.is_some() { conflict(path) } else { self.put(absolute, 0, data) }
            }
            Edit::Set { path, data, version } => match found {
                Some(found) if found.version == *version => self.put(absolute, version.wrapping_add(1), data),
                _ => conflict(path),
            },
            Edit::Delete { path, version } => match found {
                Some(found) if found.version == *version => {
                    if !children(&self.writer.reader(), absolute)?.is_empty() {
                        return Err(StoreError::Invalid(format!("{path} has documents below it")));
                    }
                    self.remove(absolute)
                }
                _ => conflict(path),
            },
        }
    }

    /// Makes or replaces an announced document. One that lives already is left alone unless `take_over`.
    pub(super) fn announce(
        &mut self,
        absolute: &str,
        data: &[u8],
        owner: &str,
        take_over: bool,
    ) -> Result<(), StoreError> {
        let found = self.get(absolute)?;
        if found.is_some() && !take_over {
            return Ok(());
        }
        self.make(path::parent(absolute))?;
        self.writer.put(&key(OWNER, absolute), owner.as_bytes())?;
        self.put(absolute, found.map_or(0, |found| found.version.wrapping_add(1)), data)
    }

    /// Removes an announced document if it is still that owner's.
    pub(super) fn withdraw(&mut self, absolute: &str, owner: &str) -> Result<(), StoreError> {
        if self.writer.get(&key(OWNER, absolute))? == Some(owner.as_bytes()) {
            self.remove(absolute)?;
        }
        Ok(())
    }
}
