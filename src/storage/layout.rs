//! The data directory: what is where, whose it is, and that one process has it.
//!
//! ```text
//! FORMAT            marker: format version, the store's id, the seed of key hashes
//! LOCK              flock of the process that has it open
//! CLEAN             up to where the last volume is known to be whole
//! INDEX             the index, saved from time to time
//! keys/             files of keys in order; may be removed
//! SCRUB             how far the scrub is, and what is known to be damaged
//! RESERVE           space given up when the disk is full, so that deletes still work
//! volumes/NNNNNNNN.vol
//! blobs/XX/ID.blob  whole files; XX are the last two digits of ID
//! tmp/              being received; emptied at start
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};

use super::{disk, index_file::IndexFile, options::OpenError, record::FileRef, whole};
use crate::{
    daemon::{LockedFile, unix_ms},
    model::Version,
};

const FORMAT_NAME: &str = "backpack-storage";
/// Of the whole directory. A greater one is refused.
const FORMAT_VERSION: u32 = 1;
const MARKER: &str = "FORMAT";
const LOCK: &str = "LOCK";
const CLEAN: &str = "CLEAN";
const SCRUB: &str = "SCRUB";
const NEW_SUFFIX: &str = ".new";
const FOLDERS: [&str; 3] = ["volumes", "blobs", "tmp"];
/// What is received is of no use to who only looks.
const LOOKED_AT: [&str; 2] = ["volumes", "blobs"];
/// Whole files are spread over this many folders, made when they are needed.
const BLOB_FOLDERS: u64 = 256;

#[derive(Serialize, Deserialize)]
struct Marker {
    format: String,
    version: u32,
    id: Version,
    hash_seed: u64,
}

/// Up to where the last volume is known to be whole: what lies after it is verified at the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanPoint {
    /// The volume's number.
    pub volume: u32,
    /// Its length in bytes.
    pub length: u64,
}

/// An open data directory; it is locked while this lives, unless it is only looked at.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    /// The store's id, which seals its records.
    pub store: [u8; 16],
    /// Seed of key hashes.
    pub hash_seed: u64,
    /// Folders of whole files that are known to be durable.
    durable_folders: [AtomicBool; BLOB_FOLDERS as usize],
    /// The saved index.
    pub index: IndexFile,
    /// None where it is only looked at.
    lock: Option<LockedFile>,
}

impl Layout {
    /// Opens a storage's directory, or makes one of an empty directory.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let context = || format!("open {}", root.display());
        fs::create_dir_all(root).map_err(OpenError::io(context()))?;
        if !root.join(MARKER).try_exists().map_err(OpenError::io(context()))? {
            refuse_strangers(root)?;
        }
        let lock = lock(root)?;
        let marker = match fs::read(root.join(MARKER)) {
            Ok(bytes) => {
                // A first start that was killed may not have come to this.
                disk::sync_folder(root).map_err(OpenError::io(context()))?;
                read_marker(root, &bytes)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(root)?,
            Err(source) => return Err(OpenError::Io { context: context(), source }),
        };
        let layout = Self::of(root, &marker, Some(lock), &FOLDERS)?;
        layout.empty_tmp().map_err(OpenError::io("empty tmp"))?;
        layout.index.drop_new();
        Ok(layout)
    }

    /// Opens a storage's directory that must be there: nothing is made where there is none.
    pub fn open_existing(root: &Path) -> Result<Self, OpenError> {
        existing_marker(root)?;
        Self::open(root)
    }

    /// Opens a storage's directory to look at it. Nothing in it is made, changed or locked: it may be on a disk that cannot
    /// be written to, and another process may have it open and go on writing.
    pub fn look(root: &Path) -> Result<Self, OpenError> {
        Self::of(root, &existing_marker(root)?, None, &LOOKED_AT)
    }

    fn of(
        root: &Path,
        marker: &Marker,
        lock: Option<LockedFile>,
        folders: &[&str],
    ) -> Result<Self, OpenError> {
        if let Some(missing) = folders.iter().find(|name| !root.join(name).is_dir()) {
            return Err(OpenError::Incomplete { dir: root.into(), missing: (*missing).into() });
        }
        Ok(Self {
            root: root.into(),
            store: marker.id.to_bytes(),
            hash_seed: marker.hash_seed,
            durable_folders: [const { AtomicBool::new(false) }; BLOB_FOLDERS as usize],
            index: IndexFile::new(root),
            lock,
        })
    }

    /// Whether anything in it may be changed; else it is only looked at.
    pub fn may_change(&self) -> bool {
        self.lock.is_some()
    }

    fn empty_tmp(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("tmp"))? {
            disk::remove(&entry?.path())?;
        }
        Ok(())
    }

    /// The folder of volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The file of that volume.
    pub fn volume(&self, number: u32) -> PathBuf {
        self.root.join(format!("volumes/{number:08}.vol"))
    }

    /// Opens that volume's file, for reading and, where it may be changed, for writing.
    pub fn open_volume(&self, number: u32) -> io::Result<File> {
        let path = self.volume(number);
        if self.may_change() { disk::open(&path) } else { File::open(path) }
    }

    /// The numbers of all volumes, ascending.
    pub fn volume_numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(self.volumes())? {
            let name = entry?.file_name();
            match name.to_str().and_then(|name| name.strip_suffix(".vol")).map(str::parse) {
                Some(Ok(number)) => numbers.push(number),
                _ => tracing::warn!(?name, "not a volume: left alone"),
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The folder of that whole file.
    pub fn blob_folder(&self, id: u64) -> PathBuf {
        self.root.join(format!("blobs/{:02x}", id % BLOB_FOLDERS))
    }

    /// Sees that the folder of that whole file is there, durably.
    pub fn make_blob_folder(&self, id: u64) -> io::Result<()> {
        let is_durable = &self.durable_folders[(id % BLOB_FOLDERS) as usize];
        if is_durable.load(Ordering::Acquire) {
            return Ok(());
        }
        disk::already_there(disk::create_folder(&self.blob_folder(id)))?;
        // Even if it was there: somebody else may have made it just now and not synced it yet.
        disk::sync_folder(&self.root.join("blobs"))?;
        is_durable.store(true, Ordering::Release);
        Ok(())
    }

    /// That whole file, relative to the data directory.
    pub fn relative_blob(&self, id: u64) -> String {
        format!("blobs/{:02x}/{id:016x}.blob", id % BLOB_FOLDERS)
    }

    /// That whole file.
    pub fn blob(&self, id: u64) -> PathBuf {
        self.root.join(self.relative_blob(id))
    }

    /// Whether that whole file is there in full.
    pub fn has_blob(&self, file: FileRef) -> bool {
        fs::metadata(self.blob(file.id)).is_ok_and(|found| found.len() == whole::file_length(file.length))
    }

    /// Every whole file: its id and its length on the disk. Those that are removed meanwhile may be missing.
    pub fn blobs(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for folder in fs::read_dir(self.root.join("blobs"))? {
            for entry in fs::read_dir(folder?.path())? {
                let entry = entry?;
                let name = entry.file_name();
                let id = name.to_str().and_then(|name| name.strip_suffix(".blob"));
                match id.map(|id| u64::from_str_radix(id, 16)) {
                    Some(Ok(id)) if self.blob(id) == entry.path() => match entry.metadata() {
                        Ok(metadata) => found.push((id, metadata.len())),
                        // Removed meanwhile, by who was told to after its blob was replaced.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    },
                    _ => tracing::warn!(?name, "not a blob: left alone"),
                }
            }
        }
        Ok(found)
    }

    /// Where that whole file is received.
    pub fn tmp(&self, id: u64) -> PathBuf {
        self.root.join(format!("tmp/{id:016x}"))
    }

    /// The folder of files of keys; made when the first is.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Sees that the folder of files of keys is there, durably.
    pub fn make_keys(&self) -> io::Result<()> {
        disk::already_there(disk::create_folder(&self.keys()))?;
        disk::sync_folder(&self.root)
    }

    /// The reserve for deletes.
    pub fn reserve(&self) -> PathBuf {
        self.root.join("RESERVE")
    }

    /// The last clean point; `None` if there is none that can be read, so that everything is verified.
    pub fn clean_point(&self) -> Option<CleanPoint> {
        serde_json::from_slice(&fs::read(self.root.join(CLEAN)).ok()?).ok()
    }

    /// Remembers a clean point, durably. The volume was synced before.
    pub fn save_clean_point(&self, point: CleanPoint) -> io::Result<()> {
        write_durably(&self.root, CLEAN, &serde_json::to_vec(&point)?)
    }

    /// What was kept of the scrub, if anything.
    pub fn saved_scrub(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.root.join(SCRUB)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps that of the scrub, durably.
    pub fn save_scrub(&self, bytes: &[u8]) -> io::Result<()> {
        write_durably(&self.root, SCRUB, bytes)
    }

    /// Bytes of the whole file system.
    pub fn total_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.root).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Bytes free on the file system, for us.
    pub fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.root).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn lock(root: &Path) -> Result<LockedFile, OpenError> {
    let context = || format!("lock {}", root.display());
    let file = disk::create(&root.join(LOCK)).map_err(OpenError::io(context()))?;
    LockedFile::try_new(file).map_err(OpenError::io(context()))?.ok_or_else(|| OpenError::Locked(root.into()))
}

/// Without a marker there may be nothing in it but what we leave behind when a first start is cut short, and what
/// file systems put into an empty disk.
fn refuse_strangers(root: &Path) -> Result<(), OpenError> {
    let context = || format!("look into {}", root.display());
    for entry in fs::read_dir(root).map_err(OpenError::io(context()))? {
        let path = entry.map_err(OpenError::io(context()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = name == LOCK
            || name == format!("{MARKER}{NEW_SUFFIX}")
            || name == "lost+found"
            || FOLDERS.contains(&name.as_str()) && !holds_files(&path).map_err(OpenError::io(context()))?;
        if !ours {
            return Err(OpenError::NotOurs { dir: root.into(), found: name });
        }
    }
    Ok(())
}

fn holds_files(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || holds_files(&entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_marker(root: &Path, bytes: &[u8]) -> Result<Marker, OpenError> {
    let refuse = |reason: String| OpenError::Format { path: root.join(MARKER), reason };
    let marker: Marker =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("not a marker of ours: {error}")))?;
    if marker.format != FORMAT_NAME {
        return Err(refuse(format!("{:?} is not {FORMAT_NAME:?}", marker.format)));
    }
    if marker.version != FORMAT_VERSION {
        let version = marker.version;
        return Err(refuse(format!(
            "format version {version}; this program reads {FORMAT_VERSION}: use the program that wrote it"
        )));
    }
    Ok(marker)
}

/// The id of the storage in a directory, without opening it; `None` if there is none yet.
pub fn id_of(root: &Path) -> Result<Option<Version>, OpenError> {
    Ok(find_marker(root)?.map(|marker| marker.id))
}

fn find_marker(root: &Path) -> Result<Option<Marker>, OpenError> {
    match fs::read(root.join(MARKER)) {
        Ok(bytes) => read_marker(root, &bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(format!("open {}", root.display()))(error)),
    }
}

/// The marker of a storage that must be there.
fn existing_marker(root: &Path) -> Result<Marker, OpenError> {
    if let Some(marker) = find_marker(root)? {
        return Ok(marker);
    }
    let inside = storages_in(root).map_err(OpenError::io(format!("open {}", root.display())))?;
    Err(OpenError::NoStorage { dir: root.into(), inside })
}

/// The storages in the folders of a folder: a one-machine system keeps those of several nodes.
fn storages_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.join(MARKER).is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The marker comes last: while it is missing, a next start begins again.
fn make(root: &Path) -> Result<Marker, OpenError> {
    refuse_strangers(root)?;
    let context = || format!("make a storage in {}", root.display());
    let marker = Marker {
        format: FORMAT_NAME.into(),
        version: FORMAT_VERSION,
        id: Version::from_parts(unix_ms(), fastrand::u128(..)),
        hash_seed: fastrand::u64(..),
    };
    for name in FOLDERS {
        disk::already_there(disk::create_folder(&root.join(name))).map_err(OpenError::io(context()))?;
    }
    // Before the marker, which says that they are there.
    disk::sync_folder(root).map_err(OpenError::io(context()))?;
    let text = serde_json::to_vec(&marker).map_err(|error| OpenError::io(context())(error.into()))?;
    write_durably(root, MARKER, &text).map_err(OpenError::io(context()))?;
    if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk::sync_folder(parent).map_err(OpenError::io(context()))?;
    }
    Ok(marker)
}

/// Replaces a small file so that after a crash it is either the old or the new one.
pub fn write_durably(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}{NEW_SUFFIX}"));
    let file = disk::create_empty(&new)?;
    disk::write_at(&file, bytes, 0)?;
    disk::sync_data(&file)?;
    disk::rename(&new, &folder.join(name))?;
    disk::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("new/data");
        let store = Layout::open(&root).unwrap().store;
        fs::write(root.join("tmp/left-over"), "x").unwrap();
        let again = Layout::open(&root).unwrap();
        assert_eq!(again.store, store);
        assert!(!root.join("tmp/left-over").exists());
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::open(dir.path()).unwrap();
        let error = Layout::open(dir.path()).unwrap_err();
        assert!(matches!(error, OpenError::Locked(_)) && error.to_string().contains("another process"));
        drop(first);
        assert!(Layout::open(dir.path()).is_ok());
    }

    #[test]
    fn strangers_are_refused_and_left_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photo.jpg"), "x").unwrap();
        assert!(matches!(Layout::open(dir.path()), Err(OpenError::NotOurs { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(dir.path().join("photo.jpg")).unwrap();
        fs::create_dir_all(dir.path().join("volumes")).unwrap();
        fs::write(dir.path().join("volumes/00000001.vol"), "x").unwrap();
        assert!(matches!(Layout::open(dir.path()), Err(OpenError::NotOurs { .. })));
    }

    #[test]
    fn a_fresh_disk_and_a_first_start_cut_short_count_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("lost+found")).unwrap();
        fs::create_dir_all(dir.path().join("blobs/00")).unwrap();
        fs::write(dir.path().join("FORMAT.new"), "{\"for").unwrap();
        fs::write(dir.path().join("LOCK"), "").unwrap();
        assert!(Layout::open(dir.path()).is_ok());
    }

    #[test]
    fn a_marker_without_its_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Layout::open(dir.path()).unwrap());
        fs::remove_dir(dir.path().join("volumes")).unwrap();
        assert!(matches!(Layout::open(dir.path()), Err(OpenError::Incomplete { .. })));
    }

    #[test]
    fn a_newer_or_foreign_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Layout::open(dir.path()).unwrap());
        let marker = fs::read_to_string(dir.path().join(MARKER)).unwrap();
        for changed in [
            marker.replace("\"version\":1", "\"version\":2"),
            marker.replace("backpack", "rucksack"),
            "{".to_owned(),
        ] {
            fs::write(dir.path().join(MARKER), changed).unwrap();
            assert!(matches!(Layout::open(dir.path()), Err(OpenError::Format { .. })));
        }
    }

    #[test]
    fn clean_points_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        assert_eq!(layout.clean_point(), None);
        let point = CleanPoint { volume: 7, length: 1 << 33 };
        layout.save_clean_point(point).unwrap();
        assert_eq!(layout.clean_point(), Some(point));
    }
}
