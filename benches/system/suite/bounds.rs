//! What a bare loop in a node's place reaches, beside the same others: about what is left when a server costs nothing.

use super::{
    CONNECTIONS, Scale,
    bare::{Bare, Keep},
    get, kib,
    line::Line,
    load::Load,
    put, raw,
    servers::{files, uploads},
    sheet::Sheet,
    turns::{Round, Turns},
};

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    for (size, _) in get::SIZES {
        reads(scale, size, sheet);
    }
    for (size, _) in put::SIZES {
        not_synced(scale, size, sheet);
    }
    for (size, _) in put::SIZES {
        durable(scale, size, sheet);
    }
}

fn reads(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let (bare, nginx) = (Bare::start(Keep::InMemory), uploads());
    let files = files(&nginx.files());
    let blobs = get::blobs(size);
    let turns = Turns::take(
        scale,
        || bare.round(|| Load::get(scale, bare.addr(), bare.addr(), size, blobs).run()),
        || Round::of(&[&files], || Load::get(scale, &nginx.addr(), &files.addr(), size, blobs).run()),
    );
    let what = format!("GET of {} from a bare loop / from nginx", kib(size));
    sheet.add(Line::ratio(what.clone(), "per CPU s", &turns, Round::per_cpu_second));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn not_synced(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let (bare, nginx) = (Bare::start(Keep::OnDisk { synced: false }), uploads());
    let turns = Turns::take(
        scale,
        || bare.round(|| Load::put(scale, bare.addr(), size).run()),
        || Round::of(&[&nginx], || Load::put(scale, &nginx.addr(), size).run()),
    );
    let what = format!("PUT of {} to a bare loop, not synced / to nginx", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn durable(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::OnDisk { synced: true });
    let turns = Turns::take(
        scale,
        || bare.round(|| Load::put(scale, bare.addr(), size).run()),
        || raw::appends(scale, size, CONNECTIONS),
    );
    let what = format!("PUT of {} to a bare loop, durable / fdatasync per {CONNECTIONS}", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}
