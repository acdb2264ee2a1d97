//! Many seeds: this test program starts itself again, once for each core, and each of these simulates its share, seed by seed.

use std::{
    fmt::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{process::in_a_copy, run::simulate};

/// What a started program is told: the first seed, the distance to the next one, how many, and milliseconds after which it
/// begins no more.
pub const SHARE: &str = "BACKPACK_SIMULATE";

/// Before each seed's line.
const SEED: &str = "seed ";

/// What came of seeds: the digest of each one's trace, or what went wrong in it.
pub type Told = Vec<(u64, Result<String, String>)>;

/// Simulates so many seeds from `first` on, as long as there is time.
pub fn simulate_many(first: u64, count: u64, within: Duration) -> Told {
    let programs = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let within_ms = within.as_millis();
    let shares = (0..programs.min(count)).map(|program| {
        let share = (count - program).div_ceil(programs);
        format!("{} {programs} {share} {within_ms}", first + program)
    });
    // What all of them say is taken at once: one that nobody listens to stands still.
    let listen = |share: String| {
        let program = start(&share);
        std::thread::spawn(move || program.wait_with_output().unwrap())
    };
    let listeners: Vec<_> = shares.map(listen).collect();
    let mut told: Told = listeners.into_iter().flat_map(|listener| read(listener.join().unwrap())).collect();
    told.sort_by_key(|(seed, _)| *seed);
    told
}

fn start(share: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["share_of_seeds", "--exact", "--nocapture", "--test-threads=1"])
        .env(SHARE, share)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn read(output: std::process::Output) -> Told {
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the program ended with {}: {said}{errors}", output.status);
    let mut told = Told::new();
    for line in said.lines() {
        let seed = line.strip_prefix(SEED).and_then(|line| line.split_once(": "));
        match (seed, told.last_mut()) {
            (Some((seed, digest)), _) => {
                let digest = digest.strip_prefix("ok ").map(str::to_owned);
                told.push((seed.parse().unwrap(), digest.ok_or_else(|| errors.to_string())));
            }
            (None, Some((_, Err(why)))) => writeln!(why, "{line}").unwrap(),
            (None, Some(_)) if is_traced() => println!("{line}"),
            _ => {}
        }
    }
    told
}

/// What a started program does.
pub fn do_share(share: &str) {
    let numbers: Vec<u64> = share.split(' ').map(|number| number.parse().unwrap()).collect();
    let [first, distance, count, within_ms] = numbers[..] else { panic!("no share: {share}") };
    let began = Instant::now();
    // The metrics measure the machine's clock when they are first used, which takes long and needs the true one.
    drop(metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder());
    // The harness leaves a line open.
    println!();
    for seed in (0..count).map(|number| first + number * distance) {
        if began.elapsed().as_millis() as u64 >= within_ms {
            break;
        }
        let status = in_a_copy(|| tell(seed));
        if status != 0 {
            println!("{SEED}{seed}: its process ended with status {status}");
        }
    }
}

/// Traces of seeds that hold are wanted too.
fn is_traced() -> bool {
    std::env::var_os("BACKPACK_TRACE").is_some()
}

fn tell(seed: u64) -> String {
    // On a new thread: what an older one has drawn is not of this seed.
    let verdict = std::thread::spawn(move || simulate(seed)).join();
    let Ok(verdict) = verdict else { return format!("{SEED}{seed}: it panicked\n") };
    let mut said = if verdict.wrong.is_empty() {
        format!("{SEED}{seed}: ok {:016x}\n", verdict.trace.digest())
    } else {
        format!("{SEED}{seed}: {} wrong\n{}\n", verdict.wrong.len(), verdict.wrong.join("\n"))
    };
    if !verdict.wrong.is_empty() || is_traced() {
        said += &(verdict.trace.lines().join("\n") + "\n");
    }
    said
}
