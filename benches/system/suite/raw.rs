//! What the disk gives without a server.

use std::{fs::File, io::Write, time::Instant};

use super::{Scale, cpu, load::Answered, turns::Round};

/// Appends of `group` bodies to a file, with one `fdatasync` for them.
pub fn appends(scale: &Scale, size_bytes: usize, group: u32) -> Round {
    let mut file = tempfile::tempfile().expect("make a file");
    let bytes = vec![7; size_bytes * group as usize];
    let (started, before, mut done) = (Instant::now(), cpu::own(), 0);
    while started.elapsed() < scale.each && done < scale.requests {
        append(&mut file, &bytes);
        done += u64::from(group);
    }
    let per_second = done as f64 / started.elapsed().as_secs_f64();
    let answered = Answered { requests: done, per_second, ..Answered::default() };
    Round { answered, cpu_seconds: cpu::own() - before }
}

fn append(file: &mut File, bytes: &[u8]) {
    file.write_all(bytes).expect("append to a file");
    file.sync_data().expect("sync a file");
}
