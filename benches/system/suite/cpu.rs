//! The processor time of servers. What the kernel does for them on threads of its own (writing back what was written) is in
//! nobody's figure.

use std::fs;

use crate::support::process::Process;

/// Seconds that these processes and their children have computed since they started, the system's part included.
pub fn of(processes: &[&Process]) -> f64 {
    processes.iter().map(|process| seconds(process.id())).sum()
}

/// The same of this process, without the children that still run.
pub fn own() -> f64 {
    in_seconds(ticks(std::process::id()))
}

/// The same of one of our own threads.
pub fn of_thread(thread: u32) -> f64 {
    let times = times(&format!("/proc/self/task/{thread}/stat"));
    // What children needed is the whole process', not the thread's.
    in_seconds(times[..2].iter().sum())
}

fn seconds(pid: u32) -> f64 {
    in_seconds(ticks_of_family(pid))
}

fn in_seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn ticks_of_family(pid: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    ticks(pid) + children.map(ticks_of_family).sum::<u64>()
}

fn ticks(pid: u32) -> u64 {
    times(&format!("/proc/{pid}/stat")).iter().sum()
}

/// Fields 14 to 17 of proc_pid_stat(5): user and system time, its own and that of children which have ended. Zeros for one that
/// is not there.
fn times(path: &str) -> [u64; 4] {
    let stat = fs::read_to_string(path).unwrap_or_default();
    // The name, which stands in brackets, may have anything in it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut times = fields.split_whitespace().skip(11).map(|ticks| ticks.parse().unwrap_or(0));
    std::array::from_fn(|_| times.next().unwrap_or(0))
}
