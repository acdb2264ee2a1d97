//! What a bare loop in a node's place reaches, beside the same others: about what is left when a server costs nothing.

use super::{
    CONNECTIONS, Scale,
    bare::{Bare, Keep},
    get, kib,
    line::Line,
    load::Load,
    put,
    sheet::Sheet,
    turns::Round,
};

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let nginx = get::Static::start();
    for (size, _) in get::SIZES {
        reads(scale, size, &nginx, sheet);
    }
    for (size, _) in put::SIZES {
        not_synced(scale, size, sheet);
    }
    for (size, _) in put::SIZES {
        durable(scale, size, sheet);
    }
}

fn reads(scale: &Scale, size: usize, nginx: &get::Static, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::InMemory);
    let load = || Load::get(scale, bare.addr(), bare.addr(), size, get::blobs(size)).run();
    let turns = nginx.beside(scale, size, || bare.round(load));
    let what = format!("GET of {} from a bare loop / from nginx", kib(size));
    sheet.add(Line::ratio(what.clone(), "per CPU s", &turns, Round::per_cpu_second));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn not_synced(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::OnDisk { synced: false });
    let load = || Load::put(scale, bare.addr(), size).run();
    let turns = put::beside_nginx(scale, size, || bare.round(load));
    let what = format!("PUT of {} to a bare loop, not synced / to nginx", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}

fn durable(scale: &Scale, size: usize, sheet: &mut Sheet) {
    let bare = Bare::start(Keep::OnDisk { synced: true });
    let load = || Load::put(scale, bare.addr(), size).run();
    let turns = put::beside_the_disk(scale, size, || bare.round(load));
    let what = format!("PUT of {} to a bare loop, durable / fdatasync per {CONNECTIONS}", kib(size));
    sheet.add(Line::ratio(what, "a second", &turns, Round::per_second));
}
