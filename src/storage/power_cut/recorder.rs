//! What is told of every change to a directory: notes them all, in order, and makes those fail that the test wants to fail.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

/// What the engine is about to do, told by [`super::super::disk`].
pub enum Change<'a> {
    Create(&'a Path),
    Write { file: &'a File, bytes: Vec<u8>, offset: u64 },
    SetLen { file: &'a File, length: u64 },
    Sync(&'a File),
    Rename { from: &'a Path, to: &'a Path },
    Remove(&'a Path),
    CreateFolder(&'a Path),
    SyncFolder(&'a Path),
}

/// A file, whatever its name is or was.
pub type FileId = usize;

/// What was done. Paths are relative to the recorded directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Create {
        file: FileId,
        path: PathBuf,
    },
    Write {
        file: FileId,
        bytes: Vec<u8>,
        offset: u64,
    },
    SetLen {
        file: FileId,
        length: u64,
    },
    Sync {
        file: FileId,
    },
    /// What was not durable before may never be: asked again, the system may say that all is well.
    FailedSync {
        file: FileId,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    CreateFolder {
        path: PathBuf,
    },
    SyncFolder {
        path: PathBuf,
    },
}

/// Says of a change to that path, relative to the directory, whether it fails and how. A write that fails is made all the
/// same: after its error nobody knows how much of it is there. Nothing else that fails is made.
pub type Plan = Box<dyn FnMut(&Change<'_>, &Path) -> Option<Errno> + Send>;

/// A directory whose changes are noted while this lives.
pub struct Recorder(Arc<Recorded>);

struct Recorded {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    names: BTreeMap<PathBuf, FileId>,
    files: usize,
    /// Open files of which a sync failed that they were not told of yet.
    untold: HashSet<(FileId, RawFd)>,
    plan: Option<Plan>,
}

/// All recorded directories.
static RECORDED: RwLock<Vec<Arc<Recorded>>> = RwLock::new(Vec::new());

impl Recorder {
    /// Records a directory, which must be there under that name without links. What is in it is taken for durable: the
    /// first events make it so.
    pub fn new(root: &Path) -> Self {
        let mut state = State::default();
        state.note_folder(root, Path::new(""));
        Self::with(root, state)
    }

    /// Goes on recording in a copy of a directory, after these events.
    pub fn resume(root: &Path, events: Vec<Event>) -> Self {
        let mut state = State::default();
        for event in &events {
            match event {
                Event::Create { file, path } => {
                    state.names.insert(path.clone(), *file);
                    state.files = file + 1;
                }
                Event::Rename { from, to } => {
                    let file = state.names.remove(from);
                    state.names.extend(file.map(|file| (to.clone(), file)));
                }
                Event::Remove { path } => drop(state.names.remove(path)),
                _ => {}
            }
        }
        state.events = events;
        Self::with(root, state)
    }

    fn with(root: &Path, state: State) -> Self {
        assert_eq!(root.canonicalize().unwrap(), root);
        let recorded = Arc::new(Recorded { root: root.into(), state: Mutex::new(state) });
        RECORDED.write().push(recorded.clone());
        Self(recorded)
    }

    /// Has changes fail from now on.
    pub fn fail(&self, plan: impl FnMut(&Change<'_>, &Path) -> Option<Errno> + Send + 'static) {
        self.0.state.lock().plan = Some(Box::new(plan));
    }

    /// Has all changes work again.
    pub fn heal(&self) {
        self.0.state.lock().plan = None;
    }

    /// All files were closed. Whoever opens one now is not told of syncs that failed before, though its descriptor may have the
    /// number of one that was to be told.
    pub fn all_closed(&self) {
        self.0.state.lock().untold.clear();
    }

    /// How many events there are by now.
    pub fn position(&self) -> usize {
        self.0.state.lock().events.len()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.0.state.lock().events.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        RECORDED.write().retain(|one| !Arc::ptr_eq(one, &self.0));
    }
}

/// Makes a change, as the recorder of its directory says, if there is one.
pub fn through<T>(change: Change<'_>, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match find(&change) {
        Some((recorded, path)) => recorded.state.lock().make(&recorded.root, change, &path, make),
        None => make(),
    }
}

/// The recorder of a change, and the path in its directory.
fn find(change: &Change<'_>) -> Option<(Arc<Recorded>, PathBuf)> {
    let all = RECORDED.read();
    if all.is_empty() {
        return None;
    }
    let path = match change {
        Change::Create(path)
        | Change::Rename { from: path, .. }
        | Change::Remove(path)
        | Change::CreateFolder(path)
        | Change::SyncFolder(path) => path.to_path_buf(),
        Change::Write { file, .. } | Change::SetLen { file, .. } | Change::Sync(file) => {
            path_of(file.as_raw_fd())?
        }
    };
    all.iter().find_map(|one| Some((one.clone(), path.strip_prefix(&one.root).ok()?.to_path_buf())))
}

/// The name that an open file has now.
fn path_of(file: RawFd) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{file}")).ok()
}

impl State {
    fn note_folder(&mut self, root: &Path, folder: &Path) {
        let mut entries: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.events.push(Event::CreateFolder { path: path.clone() });
                self.note_folder(root, &path);
            } else {
                let file = self.create(&path);
                self.events.push(Event::Write { file, bytes: fs::read(entry.path()).unwrap(), offset: 0 });
                self.events.push(Event::Sync { file });
            }
        }
        self.events.push(Event::SyncFolder { path: folder.into() });
    }

    fn create(&mut self, path: &Path) -> FileId {
        let file = self.files;
        self.files += 1;
        self.names.insert(path.into(), file);
        self.events.push(Event::Create { file, path: path.into() });
        file
    }

    fn make<T>(
        &mut self,
        root: &Path,
        change: Change<'_>,
        path: &Path,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let planned = self.plan.as_mut().and_then(|plan| plan(&change, path));
        // A file that has no name any more is nobody's.
        let file = self.names.get(path).copied();
        match change {
            Change::Sync(open) => {
                let Some(file) = file else { return make() };
                if planned.is_some() {
                    self.fail_sync(file, root.join(path));
                }
                if planned.is_some() || self.untold.remove(&(file, open.as_raw_fd())) {
                    self.untold.remove(&(file, open.as_raw_fd()));
                    return Err(planned.unwrap_or(Errno::IO).into());
                }
                let done = make()?;
                self.events.push(Event::Sync { file });
                Ok(done)
            }
            Change::Write { bytes, offset, .. } => {
                let done = make();
                self.events.extend(file.map(|file| Event::Write { file, bytes, offset }));
                planned.map_or(done, |error| Err(error.into()))
            }
            other => {
                if let Some(error) = planned {
                    return Err(error.into());
                }
                let done = make()?;
                self.note(root, &other, path, file);
                Ok(done)
            }
        }
    }

    /// Everyone who has the file open is told of a failed sync, once.
    fn fail_sync(&mut self, file: FileId, path: PathBuf) {
        self.events.push(Event::FailedSync { file });
        for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
            let open = entry.file_name().to_str().and_then(|name| name.parse().ok());
            self.untold
                .extend(open.filter(|open| path_of(*open).as_ref() == Some(&path)).map(|open| (file, open)));
        }
    }

    fn note(&mut self, root: &Path, change: &Change<'_>, path: &Path, file: Option<FileId>) {
        let event = match change {
            Change::Create(_) if file.is_some() => return,
            Change::Create(_) => {
                self.create(path);
                return;
            }
            Change::SetLen { length, .. } => file.map(|file| Event::SetLen { file, length: *length }),
            Change::Rename { to, .. } => {
                let to = to.strip_prefix(root).unwrap().to_path_buf();
                file.map(|file| self.names.insert(to.clone(), file));
                self.names.remove(path);
                Some(Event::Rename { from: path.into(), to })
            }
            Change::Remove(_) => {
                self.names.remove(path);
                Some(Event::Remove { path: path.into() })
            }
            Change::CreateFolder(_) => Some(Event::CreateFolder { path: path.into() }),
            Change::SyncFolder(_) => Some(Event::SyncFolder { path: path.into() }),
            Change::Write { .. } | Change::Sync(_) => None,
        };
        self.events.extend(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk;

    #[test]
    fn changes_are_noted_in_order_and_those_beside_are_not() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(dir.path().join("old"), "x").unwrap();
        let recorder = Recorder::new(dir.path());
        assert_eq!(recorder.position(), 4, "what was there");
        let path = |name: &str| dir.path().join(name);
        disk::create_folder(&path("folder")).unwrap();
        disk::already_there(disk::create_folder(&path("folder"))).unwrap();
        let file = disk::create_new(&path("a")).unwrap();
        disk::rename(&path("a"), &path("folder/b")).unwrap();
        disk::write_at(&file, b"text", 3).unwrap();
        disk::sync_data(&file).unwrap();
        disk::remove(&path("folder/b")).unwrap();
        disk::write_at(&file, b"of a file that has no name", 0).unwrap();
        disk::write_at(&disk::create(&other.path().join("a")).unwrap(), b"text", 0).unwrap();
        disk::set_len(&disk::open(&path("old")).unwrap(), 0).unwrap();
        disk::sync_folder(dir.path()).unwrap();
        let expected = [
            Event::CreateFolder { path: "folder".into() },
            Event::Create { file: 1, path: "a".into() },
            Event::Rename { from: "a".into(), to: "folder/b".into() },
            Event::Write { file: 1, bytes: b"text".to_vec(), offset: 3 },
            Event::Sync { file: 1 },
            Event::Remove { path: "folder/b".into() },
            Event::SetLen { file: 0, length: 0 },
            Event::SyncFolder { path: "".into() },
        ];
        assert_eq!(recorder.events()[4..], expected);
    }

    #[test]
    fn a_failed_sync_is_told_once_to_all_who_have_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path());
        let one = disk::create_new(&dir.path().join("a")).unwrap();
        let two = disk::open(&dir.path().join("a")).unwrap();
        recorder.fail(|change, _| matches!(change, Change::Sync(_)).then_some(Errno::IO));
        assert!(disk::sync_data(&one).is_err());
        recorder.heal();
        let late = disk::open(&dir.path().join("a")).unwrap();
        assert!(disk::sync_data(&one).is_ok() && disk::sync_data(&late).is_ok());
        assert!(disk::sync_data(&two).is_err() && disk::sync_data(&two).is_ok());
    }
}
