//! Compaction against a model: puts, overwrites, deletes, late ones, stops, crashes and starts in any order.

use std::{fs, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{
    Before, Engine, Options, Storage,
    compact_tests::{
        FOR_EVER, Model, SMALL, block_on, check, compact, copy, counted, delete, find_tombstones, next,
        options, put, rewrite_some,
    },
    rewrite::Stop,
};

#[derive(Debug, Clone)]
enum Step {
    /// A key, its bytes, and by how much its version is behind the newest.
    Put(usize, usize, u64),
    Delete(usize, u64),
    /// So many blobs of a key that is not looked at, to begin new volumes.
    Fill(usize),
    Compact,
    FindTombstones,
    /// The compaction of a volume ends after so many steps.
    Stop(usize),
    Crash,
    /// As both together.
    CrashWithin(usize),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let length = prop_oneof![8 => 0..SMALL as usize, 1 => 9_000_usize..20_000];
    let behind = || prop_oneof![5 => Just(0_u64), 1 => 1_u64..20];
    let step = prop_oneof![
        20 => (0_usize..12, length, behind()).prop_map(|(key, length, behind)| Step::Put(key, length, behind)),
        6 => (0_usize..12, behind()).prop_map(|(key, behind)| Step::Delete(key, behind)),
        4 => (1_usize..12).prop_map(Step::Fill),
        4 => Just(Step::Compact),
        3 => Just(Step::FindTombstones),
        2 => (0_usize..60).prop_map(Step::Stop),
        1 => Just(Step::Crash),
        3 => (0_usize..60).prop_map(Step::CrashWithin),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..80)
}

/// An engine beside its model.
struct Run {
    home: tempfile::TempDir,
    place: u32,
    engine: Option<Arc<Engine>>,
    options: Options,
    names: Vec<String>,
    model: Model,
    n: u64,
}

impl Run {
    fn new(options: Options) -> Self {
        let home = tempfile::tempdir().unwrap();
        let engine = Some(Engine::open(home.path().join("0"), options.clone()).unwrap());
        let names = (0..12).map(|n| format!("key/{n}")).chain(["filler".to_owned()]).collect();
        Self { home, place: 0, engine, options, names, model: Model::new(), n: 100 }
    }

    fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    async fn write(&mut self, key: usize, behind: u64, length: Option<usize>) {
        self.n += 1;
        let (name, n) = (self.names[key].clone(), self.n - behind);
        let before = match length {
            Some(length) => put(self.engine(), &name, n, length).await.unwrap(),
            None => delete(self.engine(), &name, n).await.unwrap(),
        };
        let held = self.model.get(&name).map(|(n, length)| (*n, length.is_none()));
        match before {
            Before::Newer(newer) => assert_eq!(held.map(|held| held.0), Some(newer.unix_ms()), "{name}"),
            _ => {
                // What is older is taken only where a tombstone's age has passed.
                let dropped = self.options.tombstone_age.is_zero() && before == Before::Nothing;
                let newer = held.is_none_or(|(held, deleted)| n > held || (dropped && deleted));
                assert!(newer || held == Some((n, false)) && length.is_none(), "{name}: {n} over {held:?}");
                self.model.insert(name, (n, length));
            }
        }
    }

    async fn stop_within(&self, steps: usize) {
        if let Some(number) = next(self.engine()) {
            match rewrite_some(self.engine(), number, steps).await {
                Ok(_) | Err(Stop::Asked) => {}
                Err(Stop::LeaveAlone(reason)) => panic!("{reason}"),
            }
        }
    }

    fn crash(&mut self) {
        let from = self.home.path().join(self.place.to_string());
        self.place += 1;
        let to = self.home.path().join(self.place.to_string());
        copy(&from, &to);
        self.engine = None;
        fs::remove_dir_all(from).unwrap();
        self.open();
    }

    fn open(&mut self) {
        let dir = self.home.path().join(self.place.to_string());
        self.engine = Some(Engine::open(dir, self.options.clone()).unwrap());
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Put(key, length, behind) => self.write(key, behind, Some(length)).await,
            Step::Delete(key, behind) => self.write(key, behind, None).await,
            Step::Fill(count) => {
                for _ in 0..count {
                    self.write(12, 0, Some(SMALL as usize)).await;
                }
            }
            Step::Compact => compact(self.engine()).await,
            Step::FindTombstones => find_tombstones(self.engine()).await,
            Step::Stop(steps) => self.stop_within(steps).await,
            Step::Crash => self.crash(),
            Step::CrashWithin(steps) => {
                self.stop_within(steps).await;
                self.crash();
            }
            Step::Reopen => {
                let before = counted(self.engine());
                self.engine().close().await.unwrap();
                self.engine = None;
                self.open();
                let after = counted(self.engine());
                assert_eq!(before, after, "what is counted while it runs and at the start is the same");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_comes_back(steps in steps(), tombstones_go: bool, collide: bool) {
        block_on(async {
            let tombstone_age = if tombstones_go { Duration::ZERO } else { FOR_EVER };
            let mut options = Options { tombstone_age, ..options() };
            if collide {
                options.key_hash = |key, _| (key.len() as u64) << 61;
            }
            let mut run = Run::new(options);
            for step in steps {
                run.step(step).await;
                check(run.engine(), &run.model, &run.names, tombstones_go).await;
            }
            compact(run.engine()).await;
            run.crash();
            check(run.engine(), &run.model, &run.names, tombstones_go).await;
        });
    }
}
