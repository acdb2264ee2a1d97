//! Durable PUTs beside appends with one `fdatasync` for as many.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use backpack::storage::{Engine, Options, Storage};
use bytes::Bytes;

use crate::{Figures, SIZES, Scale, cpu, kib, put, rate, raw, runtime};

pub fn measure(scale: &Scale) {
    println!(
        "\ndurable PUTs, a second                 engine        append + fdatasync per group of so many   ratio   CPU a PUT"
    );
    for size in SIZES {
        for writers in [1, 16, 64] {
            let (mut engine, mut plain) = (Figures::default(), Figures::default());
            let mut micros = Figures::default();
            for _ in 0..scale.rounds {
                let dir = tempfile::tempdir().unwrap();
                plain.add(raw::appends(dir.path(), size, writers, scale));
                let (rate, cpu) = runtime().block_on(puts(&dir.path().join("engine"), size, writers, scale));
                engine.add(rate);
                micros.add(cpu);
            }
            let ratio = engine.median() / plain.median();
            let micros = micros.median();
            println!(
                "{:>8}, {writers:>2} writers   {engine:>24}   {plain:>24}   {ratio:.2}   {micros:.1} µs",
                kib(size)
            );
        }
    }
}

/// PUTs a second, and microseconds of computing for each.
async fn puts(dir: &Path, size: usize, writers: usize, scale: &Scale) -> (f64, f64) {
    let engine = Engine::open(dir, Options::default()).unwrap();
    let (next, body, each) = (Arc::new(AtomicU64::new(0)), Bytes::from(vec![7; size]), scale.each);
    let (started, cpu_before) = (Instant::now(), cpu());
    let tasks = (0..writers).map(|_| {
        let (engine, next, body) = (engine.clone(), next.clone(), body.clone());
        tokio::spawn(async move {
            while started.elapsed() < each {
                put(&engine, next.fetch_add(1, Ordering::Relaxed), 1, &body).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let done = next.load(Ordering::Relaxed);
    let rate = rate(done as usize, started);
    let micros = (cpu() - cpu_before).as_secs_f64() * 1e6 / done as f64;
    engine.close().await.unwrap();
    (rate, micros)
}
