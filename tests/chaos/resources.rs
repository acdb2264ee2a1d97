//! Memory and open files of the processes: bounded, whatever they went through.

use std::{fs, time::Duration};

use crate::{
    rig::Rig,
    support::{process::Process, wait::Deadline},
};

/// A process of ours with some thousand blobs, in an unoptimised build, never needs as much.
const MOST_RESIDENT_BYTES: u64 = 384 << 20;
/// Open files beyond those of a quiet start: connections that are kept for the next request, and volumes.
const MORE_FILES: usize = 150;
/// Connections that nobody uses are closed within seconds.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

/// Of one process.
#[derive(Debug, Clone)]
pub struct Use {
    pub name: String,
    pub resident_bytes: u64,
    pub files: usize,
}

/// Of all processes of ours.
pub fn of(rig: &Rig) -> Vec<Use> {
    rig.roles().map(|(name, role)| of_one(name, &role.daemon)).collect()
}

fn of_one(name: String, process: &Process) -> Use {
    let folder = format!("/proc/{}", process.id());
    let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let files = fs::read_dir(format!("{folder}/fd")).map_or(0, Iterator::count);
    Use { name, resident_bytes: kib.unwrap_or_default() * 1024, files }
}

/// Who uses too much at rest, and what all of them use. `quiet`: as they began.
pub fn verdict(rig: &Rig, quiet: &[Use]) -> (Vec<String>, Vec<Use>) {
    let deadline = Deadline::within(CLOSED_WITHIN);
    loop {
        let now = of(rig);
        let too_much: Vec<_> =
            now.iter().zip(quiet).filter_map(|(now, quiet)| too_much(now, quiet)).collect();
        if too_much.is_empty() || deadline.is_over() {
            return (too_much, now);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn too_much(now: &Use, quiet: &Use) -> Option<String> {
    let name = &now.name;
    if now.resident_bytes > MOST_RESIDENT_BYTES {
        return Some(format!("{name} has {} MiB in memory", now.resident_bytes >> 20));
    }
    let most = quiet.files + MORE_FILES;
    (now.files > most)
        .then(|| format!("{name} has {} open files, {} at its quiet start", now.files, quiet.files))
}
