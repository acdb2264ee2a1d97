//! Reading at a place of a file: at once where the page cache has it, else on a thread that may wait.
//!
//! Sending every read to such a thread doubles the cost of a small one; waiting inline stops everybody else.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    sync::Arc,
};

use rustix::io::{Errno, ReadWriteFlags};

use super::buffers::Buffer;

/// Fills the buffer from `offset` on; it comes back shorter where the file ends before.
pub async fn read_at(file: &Arc<File>, mut buffer: Buffer, offset: u64) -> io::Result<Buffer> {
    let cached = read_cached(file, buffer.as_mut(), offset);
    if cached == buffer.as_ref().len() {
        return Ok(buffer);
    }
    let file = file.clone();
    let task = tokio::task::spawn_blocking(move || {
        let read = read_full(&file, &mut buffer.as_mut()[cached..], offset + cached as u64)?;
        buffer.truncate(cached + read);
        Ok(buffer)
    });
    task.await.map_err(io::Error::other)?
}

/// How many bytes could be read without waiting.
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    loop {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => return read,
            Err(Errno::INTR) => {}
            // Not in memory, or a file system that cannot tell.
            Err(_) => return 0,
        }
    }
}

/// Fills the buffer from `offset` on, as far as the file reaches; waits for the disk.
pub fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Whether the disk says that it cannot read this part any more, as against failing altogether.
pub fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::buffers::Buffers;

    #[tokio::test]
    async fn reads_what_is_there_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = Arc::new(File::open(path).unwrap());
        let buffers = Arc::new(Buffers::default());
        let read =
            async |length, offset| read_at(&file, buffers.take(length), offset).await.unwrap().freeze();
        assert_eq!(read(4, 3).await, "3456");
        assert_eq!(read(20, 8).await, "89");
        assert_eq!(read(5, 100).await, "");
        assert_eq!(read(0, 0).await, "");
    }
}
