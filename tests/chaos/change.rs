//! A machine that takes the place of another one while everything goes on: an operator's command, which may be refused or broken off
//! while servers do not answer, and is then run again until it is done.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    plan::Change,
    rig::{Machine, Rig, server, shard_id, url},
    support::{admin::Admin, wait::Deadline},
};

/// In which coordinators and whoever writes nginx's configuration surely see a new map: longer than any fault that keeps one of them from
/// it.
const GRACE_SECONDS: &str = "20";
/// For all tries of a command. It waits four times so long, and begins again where it was broken off.
const DONE_WITHIN: Duration = Duration::from_secs(900);
/// Between two looks whether it ended.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two tries.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One that was begun and is not over.
pub struct Underway {
    /// What changes.
    pub change: Change,
    /// Rounds of faults that it has seen.
    pub rounds: usize,
    command: JoinHandle<usize>,
    stop: Arc<AtomicBool>,
    done: Done,
}

/// What is to be done in the end.
enum Done {
    /// The old machine is switched off.
    Replaced { _old: Box<Machine> },
    /// The place of a node among those of the shard is the spare one's.
    Moved { shard: usize, place: usize, from: usize },
}

impl Underway {
    /// Begins it. A machine that is to be gone is switched off at once: nothing may be on it alone. The first try of the command is
    /// killed after so long, if it has not ended.
    pub fn begin(rig: &mut Rig, change: Change, killed_after: Duration) -> Self {
        let (command, arguments, done) = match change {
            Change::ServerReplaced { node, runs } => {
                if !runs {
                    rig.nodes[node].daemon.kill();
                }
                let old = rig.put_machine(node);
                let arguments = vec![server(node), url(&rig.nodes[node])];
                ("replace-server", arguments, Done::Replaced { _old: Box::new(old) })
            }
            Change::ShardMoved { shard, place } => {
                let from = rig.members[shard][place];
                let to = server(rig.spare.expect("there is a spare node"));
                let arguments = vec![shard_id(shard), "--from".into(), server(from), "--to".into(), to];
                ("move-shard", arguments, Done::Moved { shard, place, from })
            }
        };
        let (admin, stop) = (rig.admin.clone(), Arc::<AtomicBool>::default());
        let stopped = Arc::clone(&stop);
        let command =
            thread::spawn(move || run_until_done(&admin, command, arguments, killed_after, &stopped));
        Self { change, rounds: 0, command, stop, done }
    }

    /// Whether the command was done.
    pub fn is_over(&self) -> bool {
        self.command.is_finished()
    }

    /// Waits until it is. Gives how often the command was run.
    pub fn end(self, rig: &mut Rig) -> usize {
        let tries = self.command.join().expect("the command succeeds in the end");
        if let Done::Moved { shard, place, from } = self.done {
            rig.members[shard][place] = rig.spare.replace(from).expect("there was a spare node");
            rig.spare_is_empty = false;
        }
        tries
    }

    /// Runs the command no more once it has ended: the suite has failed.
    pub fn abandon(&self) {
        self.stop.store(true, SeqCst);
    }
}

fn run_until_done(
    admin: &Admin,
    command: &str,
    mut arguments: Vec<String>,
    killed_after: Duration,
    stop: &AtomicBool,
) -> usize {
    arguments.extend(["--grace".to_owned(), GRACE_SECONDS.to_owned()]);
    let (deadline, mut kill) = (Deadline::within(DONE_WITHIN), Some(Deadline::within(killed_after)));
    for tries in 1.. {
        let running = admin.start(command, &arguments);
        let status = loop {
            if let Some(status) = running.ended() {
                break status;
            }
            if kill.is_some_and(Deadline::is_over) {
                running.kill();
            }
            thread::sleep(LOOK_EVERY);
        };
        kill = None;
        let log = running.log();
        let last = log.lines().last().unwrap_or_default();
        println!("        {command}, {status}: {last}");
        if status.success() {
            return tries;
        }
        assert!(!stop.load(SeqCst) && !deadline.is_over(), "{command} {arguments:?}: {log}");
        thread::sleep(AGAIN_AFTER);
    }
    unreachable!("the deadline comes before")
}
