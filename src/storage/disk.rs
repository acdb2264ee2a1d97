//! The one place through which the engine changes the file system: the system's own calls, by names of ours.
//!
//! In tests each change to a directory that a test has recorded (`power_cut::recorder`) is noted there, and made
//! to fail where the test says so. In the program nothing stands between these functions and the system.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Write},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

#[cfg(test)]
use super::power_cut::recorder::{Change, through};

/// The system takes at most this many parts at once (`IOV_MAX`).
const MAX_PARTS: usize = 1024;
/// Written at once where the file system cannot set space aside without writing.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Does that; in tests the recorder of the directory, if there is one, is told.
macro_rules! change {
    ($change:expr, $done:expr) => {{
        #[cfg(test)]
        let done = through($change, || $done);
        #[cfg(not(test))]
        let done = $done;
        done
    }};
}

/// Opens a file that is there, for reading and for changing it.
pub fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path).map(without_access_time)
}

/// Makes a file that is not there yet.
pub fn create_new(path: &Path) -> io::Result<File> {
    let create = || File::options().read(true).write(true).create_new(true).open(path);
    change!(Change::Create(path), create().map(without_access_time))
}

/// Has the system not note when the file was read: the first read after each write would be a write too, and one of what is in
/// memory might have to wait for the disk.
pub fn without_access_time(file: File) -> File {
    // Only its owner may; for others it is as it always was.
    let set = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::NOATIME));
    if let Err(error) = set {
        tracing::debug!(%error, "it is noted when a file is read");
    }
    file
}

/// Opens a file as it is, or makes it.
pub fn create(path: &Path) -> io::Result<File> {
    change!(Change::Create(path), File::options().create(true).truncate(false).write(true).open(path))
}

/// Makes a file, empty even if it was there.
pub fn create_empty(path: &Path) -> io::Result<File> {
    let file = create(path)?;
    set_len(&file, 0)?;
    Ok(file)
}

/// Writes all of it there.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_parts_at(file, &mut [IoSlice::new(bytes)], offset)
}

/// Writes all of the parts there, one behind the other. After an error the file may hold any part of them.
pub fn write_parts_at(file: &File, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
    change!(
        Change::Write { file, bytes: parts.iter().map(|part| &**part).collect::<Vec<_>>().concat(), offset },
        write_all(parts, offset, |parts, offset| Ok(rustix::io::pwritev(file, parts, offset)?))
    )
}

fn write_all(
    mut parts: &mut [IoSlice<'_>],
    mut offset: u64,
    write: impl Fn(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match write(&parts[..parts.len().min(MAX_PARTS)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Cuts the file, or adds zeros.
pub fn set_len(file: &File, length: u64) -> io::Result<()> {
    change!(Change::SetLen { file, length }, file.set_len(length))
}

/// Sees that a new file takes that much room on the disk. What it then holds means nothing.
pub fn set_aside(file: &File, bytes: u64) -> io::Result<()> {
    change!(Change::SetLen { file, length: bytes }, allocate(file, bytes))
}

fn allocate(mut file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return file.set_len(bytes),
        Err(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let mut left = bytes as usize;
    while left > 0 {
        let now = left.min(ZEROS.len());
        file.write_all(&ZEROS[..now])?;
        left -= now;
    }
    file.sync_all()
}

/// Makes durable what was written to a file, and the length it has by that.
pub fn sync_data(file: &File) -> io::Result<()> {
    change!(Change::Sync(file), file.sync_data())
}

/// Makes durable whatever was done to a file; needed after it was cut.
pub fn sync_all(file: &File) -> io::Result<()> {
    change!(Change::Sync(file), file.sync_all())
}

/// Gives a file another name, which takes the place of what had that name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    change!(Change::Rename { from, to }, fs::rename(from, to))
}

/// Removes a file.
pub fn remove(path: &Path) -> io::Result<()> {
    change!(Change::Remove(path), fs::remove_file(path))
}

/// Makes a folder that is not there yet.
pub fn create_folder(path: &Path) -> io::Result<()> {
    change!(Change::CreateFolder(path), fs::create_dir(path))
}

/// Makes durable that files were created in, renamed into or removed from a folder.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    change!(Change::SyncFolder(path), File::open(path)?.sync_all())
}

/// For what is done to a file that may be gone: that it is gone is as good.
pub fn already_gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// For what is made and may be there: that it is there is as good.
pub fn already_there(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, os::unix::fs::FileExt};

    use super::*;

    #[test]
    fn it_is_not_noted_when_a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let is_quiet = |file: File| fcntl_getfl(&file).unwrap().contains(OFlags::NOATIME);
        assert!(is_quiet(create_new(&path).unwrap()) && is_quiet(open(&path).unwrap()));
        assert!(!is_quiet(File::open(&path).unwrap()));
    }

    #[test]
    fn what_the_system_writes_in_pieces_is_written_whole() {
        let parts: Vec<Vec<u8>> = (0..3000_usize).map(|n| vec![n as u8; n % 5]).collect();
        let slices = || parts.iter().map(|part| IoSlice::new(part)).collect::<Vec<_>>();
        let file = tempfile::tempfile().unwrap();
        write_parts_at(&file, &mut slices(), 3).unwrap();
        let mut bytes = vec![0; parts.concat().len()];
        file.read_exact_at(&mut bytes, 3).unwrap();
        assert_eq!(bytes, parts.concat());

        // 7 bytes at a time, and a signal now and then.
        let (written, calls) = (RefCell::new(Vec::new()), RefCell::new(0));
        write_all(&mut slices(), 3, |parts, offset| {
            assert_eq!(offset, 3 + written.borrow().len() as u64);
            *calls.borrow_mut() += 1;
            if *calls.borrow() % 3 == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let now: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(7).collect();
            written.borrow_mut().extend_from_slice(&now);
            Ok(now.len())
        })
        .unwrap();
        assert_eq!(written.into_inner(), parts.concat());
        assert!(write_all(&mut slices(), 0, |_, _| Ok(0)).is_err());
    }
}
