//! A coordinator whose map has more and more shards, all of which take uploads, and then more and more servers, which do not run and
//! whose shards take none: uploads, reads, what they cost, how soon a change of the map is acted on, and who has to wait for it.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{
        Scale, cpu,
        figures::Figures,
        line::Line,
        load::Load,
        memory::resident_mib,
        sheet::Sheet,
        turns::{Round, clear},
        wire::Wire,
    },
    curve, curve_of,
    grown::{EDITED, Grown},
    number,
    patience::Asking,
};

const SIZE: usize = 1 << 10;

/// Blobs that are read again and again: so few that uploading them is not seen in the processor time.
const READ_BLOBS: u64 = 200;

/// Shards that take uploads while servers are added.
const SHARDS: usize = 10;

/// How often it is looked whether a change is acted on.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Between two changes while others upload.
const EDIT_EVERY: Duration = Duration::from_millis(100);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let (mut grown, mut first) = (Grown::start(), None);
    for &shards in scale.growth_shards {
        let before = grown.shards();
        let (asking, added) = (Asking::begin(grown.addr()), Instant::now());
        grown.grow_shards(shards);
        let (added, waited_ms) = (added.elapsed(), asking.end());
        let step = Step::measure(scale, &grown);
        if first.is_some() {
            let adding = format!("from {before} shards to {shards}");
            sheet.add(Line::figure(format!("{adding}, all known"), "ms", added.as_secs_f64() * 1000.0));
            sheet.add(Line::figure(format!("{adding}, slowest upload meanwhile"), "ms", waited_ms));
        }
        let first = first.get_or_insert_with(|| step.clone());
        step.add_lines(first, &format!("{} shards", number(shards as u64)), sheet);
    }
    let (mut grown, mut first) = (Grown::start(), None);
    grown.grow_shards(SHARDS);
    for &servers in scale.growth_servers {
        grown.grow_servers(servers);
        let step = Step::measure(scale, &grown);
        let first = first.get_or_insert_with(|| step.clone());
        step.add_lines(first, &format!("{servers} servers"), sheet);
    }
}

/// What was measured with one map.
#[derive(Clone)]
struct Step {
    /// With the coordinator's processor time.
    put: Vec<Round>,
    /// With ZooKeeper's.
    put_zookeeper: Vec<Round>,
    get: Vec<Round>,
    /// From the start of a coordinator until it is ready.
    ready_ms: Figures,
    /// From a change of the map until an upload is answered otherwise.
    acted_ms: Figures,
    /// The slowest upload while nothing is changed, and while the map is changed all the time.
    quiet_ms: Figures,
    edited_ms: Figures,
    /// Of a second, that a coordinator computes when nobody asks for anything.
    idle_ms: Figures,
    /// What it computes for one change of the map: nobody waits longer than that for one, unless all processors are busy.
    change_ms: Figures,
    memory_mib: Figures,
}

impl Step {
    fn measure(scale: &Scale, grown: &Grown) -> Self {
        let each = |measure: &dyn Fn() -> f64| -> Figures { (0..scale.rounds).map(|_| measure()).collect() };
        let ready_ms = each(&|| milliseconds(|| grown.cluster.coordinators[0].restart()));
        let idle_ms = Figures::from_iter([idle(scale, grown)]);
        let change_ms = Figures::from_iter([change(scale, grown)]);
        let acted_ms = acted(scale, grown);
        let quiet_ms = each(&|| slowest(grown, || thread::sleep(scale.growth_edited)));
        let edited_ms = each(&|| slowest(grown, || edit_for(scale.growth_edited, grown)));
        let get = (0..scale.rounds).map(|_| get(scale, grown)).collect();
        let (put, put_zookeeper) = (0..scale.rounds).map(|_| put(scale, grown)).unzip();
        let memory_mib = Figures::from_iter([resident_mib(grown.coordinator())]);
        Self {
            put,
            put_zookeeper,
            get,
            ready_ms,
            acted_ms,
            quiet_ms,
            edited_ms,
            idle_ms,
            change_ms,
            memory_mib,
        }
    }

    fn add_lines(&self, first: &Self, with: &str, sheet: &mut Sheet) {
        let cpu_us = |round: &Round| 1e6 / round.per_cpu_second();
        for (verb, rounds) in [("PUT", [&self.put[..], &first.put]), ("GET", [&self.get, &first.get])] {
            let what = |of| format!("{with}: {verb} of 1 KiB{of}");
            sheet.add(curve(what(""), "a second", rounds, Round::per_second));
            sheet.add(curve(what(", p99"), "ms", rounds, |round| round.answered.p99_ms));
            sheet.add(curve(what(", the coordinator's CPU"), "us", rounds, cpu_us));
        }
        let what = |what| format!("{with}: {what}");
        let zookeeper = [&self.put_zookeeper[..], &first.put_zookeeper];
        sheet.add(curve(what("PUT of 1 KiB, ZooKeeper's CPU"), "us", zookeeper, cpu_us));
        let mut add = |of, unit, figures| sheet.add(curve_of(what(of), unit, figures));
        add("CPU of an idle coordinator", "ms/s", [&self.idle_ms, &first.idle_ms]);
        add("a coordinator's CPU for a change of the map", "ms", [&self.change_ms, &first.change_ms]);
        add("memory of a coordinator", "MiB", [&self.memory_mib, &first.memory_mib]);
        add("start of a coordinator to ready", "ms", [&self.ready_ms, &first.ready_ms]);
        add("from a change of the map to its effect", "ms", [&self.acted_ms, &first.acted_ms]);
        let edited = [self.edited_ms.clone(), self.quiet_ms.clone()];
        let what = what("slowest upload, map changed / not");
        sheet.add(Line::beside(what, "ms", edited, |edited, quiet| edited - quiet));
    }
}

fn put(scale: &Scale, grown: &Grown) -> (Round, Round) {
    clear(scale);
    let before = cpu::of(&[&grown.cluster.zookeeper]);
    let put = Round::of(&[grown.coordinator()], || Load::put(scale, grown.addr(), SIZE).run());
    let cpu_seconds = cpu::of(&[&grown.cluster.zookeeper]) - before;
    (put.clone(), Round { cpu_seconds, ..put })
}

fn get(scale: &Scale, grown: &Grown) -> Round {
    clear(scale);
    let load = Load::get(scale, grown.addr(), grown.addr(), SIZE, READ_BLOBS);
    Round::of(&[grown.coordinator()], || load.run())
}

/// From a change of the map until an upload that it is about is taken.
fn acted(scale: &Scale, grown: &Grown) -> Figures {
    let mut wire = Wire::connect(grown.addr());
    let mut wait_for = |wanted: u16| {
        let pool = format!("X-Backpack-Pool: {EDITED}\r\n");
        while wire.ask("PUT", "/edited", &pool, b"7") != wanted {
            thread::sleep(LOOK_EVERY);
        }
    };
    let edit = |_| {
        let acted = milliseconds(|| {
            grown.edit(true);
            wait_for(200);
        });
        grown.edit(false);
        wait_for(503);
        acted
    };
    (0..scale.growth_edits).map(edit).collect()
}

/// What the slowest upload took while this went on.
fn slowest(grown: &Grown, meanwhile: impl FnOnce()) -> f64 {
    let asking = Asking::begin(grown.addr());
    meanwhile();
    asking.end()
}

fn edit_for(time: Duration, grown: &Grown) {
    let began = Instant::now();
    for edit in 0.. {
        if began.elapsed() >= time {
            break;
        }
        grown.edit(edit % 2 == 0);
        thread::sleep(EDIT_EVERY);
    }
    grown.edit(false);
}

fn idle(scale: &Scale, grown: &Grown) -> f64 {
    let (before, began) = (cpu::of(&[grown.coordinator()]), Instant::now());
    thread::sleep(scale.growth_idle);
    // Less than a tick counts as one.
    (cpu::of(&[grown.coordinator()]) - before).max(0.01) * 1000.0 / began.elapsed().as_secs_f64()
}

/// Processor time of a coordinator for a change of the map, with what it does by itself meanwhile.
fn change(scale: &Scale, grown: &Grown) -> f64 {
    let before = cpu::of(&[grown.coordinator()]);
    for edit in 1..=scale.growth_edits {
        grown.edit(edit % 2 == 1);
        thread::sleep(EDIT_EVERY);
    }
    grown.edit(false);
    // Less than a tick counts as one.
    (cpu::of(&[grown.coordinator()]) - before).max(0.01) * 1000.0 / scale.growth_edits as f64
}

fn milliseconds(what: impl FnOnce()) -> f64 {
    let began = Instant::now();
    what();
    began.elapsed().as_secs_f64() * 1000.0
}
