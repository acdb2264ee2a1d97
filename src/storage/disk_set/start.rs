//! The start of a storage that has several directories: which are there, which are lost, which are new.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    DiskSet,
    plan::{Member, Plan},
};
use crate::{
    model::Version,
    storage::{
        Engine, Storage,
        layout::id_of,
        options::{OpenError, Options},
    },
};

/// A directory as it was found, and nothing in it changed.
struct Seen {
    dir: PathBuf,
    /// What is in it.
    id: Option<Version>,
    plan: Option<Plan>,
    /// Why it cannot be looked at.
    failure: Option<String>,
}

impl Seen {
    fn new(dir: &Path) -> Result<Self, OpenError> {
        let look = || Ok((id_of(dir)?, Plan::read(dir)?));
        let (id, plan, failure) = match look() {
            Ok((id, plan)) => (id, plan, None),
            // A disk that is dying.
            Err(error @ OpenError::Io { .. }) => (None, None, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.to_owned(), id, plan, failure })
    }
}

/// Opens the storage that is spread over these directories, or makes one. One directory is a plain storage unless it
/// belongs to others. `forget_lost`: go on for good without those that are not there.
pub fn open(dirs: &[PathBuf], options: &Options, forget_lost: bool) -> Result<Arc<dyn Storage>, OpenError> {
    let seen = dirs.iter().map(|dir| Seen::new(dir)).collect::<Result<Vec<_>, _>>()?;
    let latest = seen.iter().filter_map(|seen| seen.plan.clone()).max_by_key(|plan| plan.revision);
    if let ([dir], None) = (dirs, &latest) {
        return Ok(Engine::open(dir, options.clone())?);
    }
    let found = sort_out(&seen, latest.unwrap_or_else(Plan::new), forget_lost)?;
    found.refuse_doubt(&seen)?;
    let engines = open_all(&found.there, options)?;
    let plan = found.next_plan(&engines)?;
    // Nothing is served before all that are there have it.
    for one in found.there.iter().filter(|one| one.plan.as_ref() != Some(&plan)) {
        plan.write(&one.dir)?;
    }
    Ok(Arc::new(DiskSet::new(plan, &engines)))
}

/// What the directories are, by the latest plan.
struct Found<'a> {
    plan: Plan,
    /// Those to be opened, members and new ones.
    there: Vec<&'a Seen>,
    /// Members that are not.
    lost: Vec<Member>,
    forget_lost: bool,
}

fn refuse<T>(reason: String) -> Result<T, OpenError> {
    Err(OpenError::Disks(reason))
}

/// Tells disks that are there from those that are lost. Nothing is made where one was.
fn sort_out(seen: &[Seen], plan: Plan, forget_lost: bool) -> Result<Found<'_>, OpenError> {
    let is_seen = |member: &&Member| seen.iter().any(|seen| seen.id == Some(member.id));
    let lost: Vec<_> = plan.disks.iter().filter(|member| !is_seen(member)).cloned().collect();
    let mut there: Vec<&Seen> = Vec::new();
    for one in seen {
        let dir = one.dir.display();
        if there.iter().any(|other| other.dir == one.dir || one.id.is_some() && other.id == one.id) {
            return refuse(format!("{dir} is given twice"));
        }
        let was_here = lost.iter().any(|member| member.dir == one.dir);
        match &one.failure {
            Some(failure) if was_here => tracing::error!(%dir, failure, "a disk is lost"),
            Some(failure) => return refuse(failure.clone()),
            // A directory to mount it at, never a new disk.
            None if was_here && one.id.is_none() && !forget_lost => {
                tracing::error!(%dir, "a disk is lost: its directory is empty");
            }
            None => there.push(one),
        }
    }
    Ok(Found { plan, there, lost, forget_lost })
}

impl Found<'_> {
    /// Refuses a start that could take a disk which is only not mounted for one that is gone.
    fn refuse_doubt(&self, seen: &[Seen]) -> Result<(), OpenError> {
        if self.there.is_empty() {
            return refuse("all disks of this storage are lost: are they mounted?".to_owned());
        }
        let Some(lost) = self.lost.first().filter(|_| !self.forget_lost) else { return Ok(()) };
        if let Some(left_out) = self.lost.iter().find(|lost| !seen.iter().any(|seen| seen.dir == lost.dir)) {
            return refuse(format!(
                "the disk that was at {} is missing: give its directory too, or if it is gone for good start once with \
                 --forget-lost-disks (the other servers of its shards have what it held)",
                left_out.dir.display()
            ));
        }
        if self.there.iter().any(|one| !self.is_member(one)) {
            return refuse(format!(
                "no disk can be added while the one at {} is lost: mount it, or if it is gone for good start once with \
                 --forget-lost-disks",
                lost.dir.display()
            ));
        }
        Ok(())
    }

    fn is_member(&self, one: &Seen) -> bool {
        self.plan.disks.iter().any(|member| Some(member.id) == one.id)
    }

    /// The plan with new disks taken in and, if so told, lost ones forgotten. The engines are those of what is there.
    fn next_plan(&self, engines: &[Arc<Engine>]) -> Result<Plan, OpenError> {
        let mut plan = self.plan.clone();
        let grown = self.grown(engines)?;
        if plan.revision == 0 {
            plan.id = grown.unwrap_or(&engines[0]).id();
        }
        if let Some(engine) = grown {
            plan.disks.push(Member { id: engine.id(), dir: PathBuf::new() });
            plan.begin_generation(&[(engine.id(), 1)]);
        }
        if self.forget_lost {
            for Member { id, dir } in &self.lost {
                tracing::warn!(%id, dir = %dir.display(), "a lost disk is forgotten");
            }
            plan.disks.retain(|member| !self.lost.contains(member));
        }
        for (one, engine) in self.there.iter().zip(engines) {
            match plan.disks.iter_mut().find(|member| member.id == engine.id()) {
                Some(member) => member.dir.clone_from(&one.dir),
                None => plan.disks.push(Member { id: engine.id(), dir: one.dir.clone() }),
            }
        }
        let ids = |plan: &Plan| plan.disks.iter().map(|member| member.id).collect::<Vec<_>>();
        if ids(&plan) != ids(&self.plan) {
            let weight = |engine: &Arc<Engine>| (engine.id(), engine.usage().free_bytes);
            plan.begin_generation(&engines.iter().map(weight).collect::<Vec<_>>());
        }
        if plan != self.plan {
            plan.revision += 1;
        }
        Ok(plan)
    }

    /// The storage of one directory that now gets more of them. No other brings blobs with it.
    fn grown<'a>(&self, engines: &'a [Arc<Engine>]) -> Result<Option<&'a Arc<Engine>>, OpenError> {
        let newcomers = self.there.iter().zip(engines).filter(|(one, _)| !self.is_member(one));
        let with_blobs: Vec<_> = newcomers.filter(|(_, engine)| engine.usage().volumes > 0).collect();
        match &with_blobs[..] {
            [] => Ok(None),
            [(_, engine)] if self.plan.disks.is_empty() => Ok(Some(engine)),
            [.., (stranger, _)] => refuse(format!(
                "{} holds blobs that are not of this storage: empty it, or leave it out",
                stranger.dir.display()
            )),
        }
    }
}

/// Opens the storages side by side: each start is bound by its own disk.
fn open_all(there: &[&Seen], options: &Options) -> Result<Vec<Arc<Engine>>, OpenError> {
    // Each has its own.
    let part = |bytes| bytes / there.len() as u64;
    let (buffer_bytes, hot_bytes) = (part(options.buffer_bytes), part(options.hot_bytes));
    let options = Options { buffer_bytes, hot_bytes, ..options.clone() };
    std::thread::scope(|scope| {
        let open = |seen: &&Seen| {
            let (dir, options) = (seen.dir.clone(), options.clone());
            scope.spawn(move || Engine::open(dir, options))
        };
        let starts: Vec<_> = there.iter().map(open).collect();
        let panicked = |_| Err(OpenError::Disks("the start of a disk panicked".to_owned()));
        starts.into_iter().map(|start| start.join().unwrap_or_else(panicked)).collect()
    })
}
