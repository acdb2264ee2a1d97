//! Credentials and TLS.

use std::{sync::Arc, time::Duration};

use backpack::{
    cluster::{self, Link, MapStore, StoreError, StoreOptions, edit::init},
    daemon::install_tls_provider,
};

use crate::support::{tls::Certificates, zookeeper::ZooKeeper};

use super::{
    edits::queue,
    place::{SOON, children_become, create, hinted, set, text},
};

fn connect(servers: &str, options: StoreOptions) -> Arc<dyn MapStore> {
    cluster::connect(servers, "/backpack", &options).unwrap()
}

fn user(name: &str) -> StoreOptions {
    StoreOptions { digest_auth: Some(name.into()), ..Default::default() }
}

fn denied<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Denied(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reads_and_the_owner_writes() {
    let zookeeper = ZooKeeper::start();
    let owner = connect(&zookeeper.addr(), user("backpack:secret"));
    init(&*owner, &queue()).await.unwrap();
    create(&*owner, "/a", "0").await.unwrap();
    owner.announce("/live/1", "".into()).await.unwrap();

    for options in [StoreOptions::default(), user("backpack:wrong"), user("other:secret")] {
        let stranger = connect(&zookeeper.addr(), options);
        let mut hints = stranger.hints();
        let (_, version) = text(&*stranger, "/a").await.unwrap();
        children_become(&*stranger, "/live", &["1"]).await;
        denied(set(&*stranger, "/a", "x", version).await);
        denied(create(&*stranger, "/b", "").await);
        denied(stranger.announce("/live/2", "".into()).await);
        // All is there, so there is nothing to be denied.
        stranger.init().await.unwrap();
        set(&*owner, "/a", "1", version).await.unwrap();
        hinted(&mut hints, "/a").await;
    }
    assert_eq!(owner.children("/live").await.unwrap(), ["1"]);
    // Another process with the same credentials.
    let same = connect(&zookeeper.addr(), user("backpack:secret"));
    create(&*same, "/b", "").await.unwrap();
    same.announce("/live/1", "new".into()).await.unwrap();
    assert_eq!(text(&*owner, "/live/1").await.unwrap().0, "new");
    // Kept over a lost connection.
    zookeeper.restart();
    let mut link = same.link();
    tokio::time::timeout(SOON, link.wait_for(|link| *link == Link::Up)).await.unwrap().unwrap();
    create(&*same, "/c", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_over_tls() {
    install_tls_provider();
    let certificates = Certificates::generate();
    let identity = tempfile::NamedTempFile::new().unwrap();
    let pem = [certificates.client_certificate(), certificates.client_key()]
        .map(|path| std::fs::read_to_string(path).unwrap());
    std::fs::write(&identity, pem.concat()).unwrap();
    let (ca, identity) = (certificates.ca(), identity.path().to_owned());

    let zookeeper = ZooKeeper::start_tls(&certificates, true);
    let options =
        StoreOptions { tls_ca: Some(ca.clone()), tls_identity: Some(identity.clone()), ..Default::default() };
    let store = connect(&zookeeper.tls_addr(), options.clone());
    store.init().await.unwrap();
    create(&*store, "/a", "0").await.unwrap();
    assert_eq!(text(&*store, "/a").await, Some(("0".into(), 0)));

    let strange_ca = Certificates::generate();
    let bad = [
        // Without a certificate of ours.
        (zookeeper.tls_addr(), StoreOptions { tls_identity: None, ..options.clone() }),
        // A server whose certificate somebody else signed.
        (zookeeper.tls_addr(), StoreOptions { tls_ca: Some(strange_ca.ca()), ..options.clone() }),
        // Plain text to the TLS port.
        (zookeeper.tls_addr(), StoreOptions::default()),
        // TLS to the plain port.
        (zookeeper.addr(), options),
    ];
    let refused = bad.map(|(servers, options)| async move {
        let options = StoreOptions { session_timeout: Some(Duration::from_secs(2)), ..options };
        connect(&servers, options).get("/a").await
    });
    for refused in futures_util::future::join_all(refused).await {
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    for (tls_ca, tls_identity) in
        [(Some(identity), Some(ca)), (Some("/nowhere/ca.pem".into()), None), (None, Some("/x.pem".into()))]
    {
        let options = StoreOptions { tls_ca, tls_identity, ..Default::default() };
        let refused = cluster::connect(&zookeeper.tls_addr(), "/backpack", &options).err();
        assert!(matches!(refused, Some(StoreError::Invalid(_))), "{refused:?}");
    }
}
