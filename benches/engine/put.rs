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

use crate::{Figures, SIZES, Scale, kib, put, rate, raw, runtime};

pub fn measure(scale: &Scale) {
    println!(
        "\ndurable PUTs, a second                 engine        append + fdatasync per group of so many   ratio"
    );
    for size in SIZES {
        for writers in [1, 16, 64] {
            let (mut engine, mut plain) = (Figures::default(), Figures::default());
            for _ in 0..scale.rounds {
                let dir = tempfile::tempdir().unwrap();
                plain.add(raw::appends(dir.path(), size, writers, scale));
                engine.add(runtime().block_on(puts(&dir.path().join("engine"), size, writers, scale)));
            }
            let ratio = engine.median() / plain.median();
            println!("{:>8}, {writers:>2} writers   {engine:>24}   {plain:>24}   {ratio:.2}", kib(size));
        }
    }
}

async fn puts(dir: &Path, size: usize, writers: usize, scale: &Scale) -> f64 {
    let engine = Engine::open(dir, Options::default()).unwrap();
    let (next, body, each) = (Arc::new(AtomicU64::new(0)), Bytes::from(vec![7; size]), scale.each);
    let started = Instant::now();
    let tasks = (0..writers).map(|_| {
        let (engine, next, body) = (engine.clone(), next.clone(), body.clone());
        tokio::spawn(async move {
            while started.elapsed() < each {
                put(&engine, next.fetch_add(1, Ordering::Relaxed), &body).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rate = rate(next.load(Ordering::Relaxed) as usize, started);
    engine.close().await.unwrap();
    rate
}
