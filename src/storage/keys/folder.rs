//! The folder of runs, as a start finds it.

use std::{cmp::Reverse, ffi::OsStr, fs, io, path::Path, sync::Arc};

use super::run::{Run, Unusable};
use crate::storage::{disk, index::Place, layout::Layout, volume::Volumes};

/// What a run is called while it is written.
pub const NEW: &str = "new";
/// What it is called then.
pub const RUN: &str = "keys";

/// The runs that can be used, ascending; the others, and what a crash left, are removed. Believed are those that were made
/// of records before that place, if any.
pub fn load(layout: &Layout, volumes: &Volumes, believed: Option<Place>) -> io::Result<Vec<Arc<Run>>> {
    let folder = match fs::read_dir(layout.keys()) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let (mut runs, mut useless) = (Vec::new(), Vec::new());
    for entry in folder {
        let path = entry?.path();
        match (path.extension().and_then(OsStr::to_str), believed) {
            (Some(RUN), Some(until)) => match open(layout, volumes, &path, until) {
                Ok(run) => runs.push(run),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a file of keys cannot be used: it is made anew");
                    useless.push(path);
                }
            },
            (Some(RUN | NEW), _) => useless.push(path),
            _ => tracing::warn!(file = %path.display(), "not a file of keys: left alone"),
        }
    }
    // Where a merge was cut short, what it made is there beside what it was made of.
    runs.sort_unstable_by_key(|run| Reverse(run.range.end.to_number() - run.range.start.to_number()));
    let mut kept: Vec<Arc<Run>> = Vec::with_capacity(runs.len());
    for run in runs {
        let overlaps = |kept: &Arc<Run>| kept.range.start < run.range.end && run.range.start < kept.range.end;
        if kept.iter().any(overlaps) {
            useless.push(run.path.clone());
        } else {
            kept.push(Arc::new(run));
        }
    }
    kept.sort_unstable_by_key(|run| run.range.start);
    for path in &useless {
        disk::already_gone(disk::remove(path))?;
    }
    if !useless.is_empty() {
        // What is not believed now must not be there when an index is saved that the next start believes.
        disk::sync_folder(&layout.keys())?;
    }
    Ok(kept)
}

fn open(layout: &Layout, volumes: &Volumes, path: &Path, until: Place) -> Result<Run, Unusable> {
    let (run, reach) = Run::open(path, layout.store)?;
    if run.range.end > reach.end {
        return Err(Unusable::Wrong("it ends behind what it was made of"));
    }
    if reach.end > until {
        return Err(Unusable::Wrong("it was made of records that are gone"));
    }
    reach.check(&volumes.all())?.map_err(Unusable::Wrong)?;
    Ok(run)
}
