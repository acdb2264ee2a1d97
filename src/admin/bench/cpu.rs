//! The processor time that this process used: a load generator at its own limit measures itself.

use std::fs;

/// Seconds of processor time since the start, on all cores; `None` where the system does not say.
pub fn seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = ticks_of(&stat)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// User and system time: the 14th and the 15th field (proc_pid_stat(5)). The name before them may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (after_name.next()?.parse::<u64>().ok()?, after_name.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        let stat = "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 8 0 0";
        assert_eq!(ticks_of(stat), Some(300));
        assert_eq!(ticks_of("1 (a) S 0"), None);
        assert!(seconds().is_some());
    }
}
