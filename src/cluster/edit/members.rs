//! Servers on their way into a shard and out of it. Each step is one edit, so that whoever comes after a step that was broken off
//! sees in the map how far it came.
//!
//! A move: [`join`], [`filled`], [`hand_over`], [`retire`], [`leave`]. A replacement: [`withdraw`], [`replace_server`], [`filled`],
//! [`settle`]. Whoever takes one step after another waits between them until all readers and coordinators know the last one.

use std::collections::BTreeMap;

use super::{Decision, EditError, Outcome, Read, change};
use crate::{
    cluster::{
        MapStore,
        format::{Document, SERVERS, SHARDS, ShardEntry},
    },
    model::{Server, ServerId, ShardId, Stage},
};

/// The shards of a document.
type Entries = BTreeMap<ShardId, ShardEntry>;

/// Puts `to` beside `from` into a shard, to be filled.
pub async fn join(
    store: &dyn MapStore,
    shard: &ShardId,
    from: &ServerId,
    to: &ServerId,
) -> Result<Outcome, EditError> {
    let decide = |[servers, shards]: &[Read; 2]| {
        let entries = shards.document.shards().value;
        let mut entry = member(&entries, shard, from)?;
        if entry.stages.get(to) == Some(&Stage::Joining) {
            return Ok(Decision::keep(()));
        }
        let known = servers.document.servers().value;
        if !known.contains_key(to) {
            let known = known.into_keys().collect();
            return Err(EditError::UnknownServers { unknown: vec![to.clone()], known });
        }
        if let Some((taken, _)) = entries.iter().find(|(_, other)| other.servers.contains(to)) {
            return Err(EditError::ServerTaken { server: to.clone(), shard: taken.clone() });
        }
        free(&entry, shard)?;
        let place = entry.servers.iter().position(|id| id == from).map_or(0, |at| at + 1);
        entry.servers.insert(place, to.clone());
        entry.stages.insert(to.clone(), Stage::Joining);
        Ok(write(shards, [(shard, &entry)]))
    };
    Ok(change(store, [SERVERS, SHARDS], decide).await?.1)
}

/// A server that was being filled has everything that its shard holds: it is read from now on. `server`: the machine that was filled,
/// for its id may have got another one meanwhile.
pub async fn filled(store: &dyn MapStore, shard: &ShardId, server: &Server) -> Result<Outcome, EditError> {
    let decide = |[servers, shards]: &[Read; 2]| {
        let known = servers.document.servers().value;
        if known.get(&server.id).is_none_or(|known| **known != *server) {
            return Err(EditError::OtherMachine { server: server.clone() });
        }
        advance(shards, shard, (&server.id, Stage::Joining), Some((&server.id, Stage::Joined)))
    };
    Ok(change(store, [SERVERS, SHARDS], decide).await?.1)
}

/// `to` is one like the others now, and `from` is left nothing alone.
pub async fn hand_over(
    store: &dyn MapStore,
    shard: &ShardId,
    from: &ServerId,
    to: &ServerId,
) -> Result<Outcome, EditError> {
    step(store, shard, (to, Stage::Joined), Some((from, Stage::Leaving))).await
}

/// Nobody need read `from` any more.
pub async fn retire(store: &dyn MapStore, shard: &ShardId, from: &ServerId) -> Result<Outcome, EditError> {
    step(store, shard, (from, Stage::Leaving), Some((from, Stage::Left))).await
}

/// Takes a server out that nobody reads any more.
pub async fn leave(store: &dyn MapStore, shard: &ShardId, from: &ServerId) -> Result<Outcome, EditError> {
    let decide = |[shards]: &[Read; 1]| {
        let entries = shards.document.shards().value;
        let mut entry = match member(&entries, shard, from) {
            Err(EditError::NotMember { .. }) => return Ok(Decision::keep(())),
            entry => entry?,
        };
        if entry.stages.get(from) != Some(&Stage::Left) {
            let (shard, server) = (shard.clone(), from.clone());
            return Err(EditError::OtherStage { shard, server, stage: Stage::Left });
        }
        entry.servers.retain(|id| id != from);
        entry.stages.clear();
        Ok(write(shards, [(shard, &entry)]))
    };
    Ok(change(store, [SHARDS], decide).await?.1)
}

/// A server leaves all its shards, as far as that: [`Stage::Leaving`] or [`Stage::Left`]. Where it is being filled it stays as it is:
/// it is not read, and nothing was left to it alone.
pub async fn withdraw(store: &dyn MapStore, server: &ServerId, stage: Stage) -> Result<Outcome, EditError> {
    let decide = |[shards]: &[Read; 1]| {
        let mut entries = own(shards, server)?;
        for entry in entries.values_mut().filter(|entry| entry.stages.get(server) != Some(&Stage::Joining)) {
            entry.stages = [(server.clone(), stage)].into();
        }
        Ok(write(shards, &entries))
    };
    Ok(change(store, [SHARDS], decide).await?.1)
}

/// The shards of a server that another machine is to take over.
fn own(shards: &Read, server: &ServerId) -> Result<Entries, EditError> {
    let mut entries = shards.document.shards().value;
    entries.retain(|_, entry| entry.servers.contains(server));
    for (id, entry) in &mut entries {
        if entry.servers.len() == 1 {
            return Err(EditError::OnlyServer { shard: id.clone(), server: server.clone() });
        }
        // What was begun with this one is gone on with.
        if !entry.stages.contains_key(server) {
            free(entry, id)?;
        }
    }
    Ok(entries)
}

/// Another machine takes over a server's id: it has another address, and joins each of its shards, to be filled.
pub async fn replace_server(store: &dyn MapStore, server: &Server) -> Result<Outcome, EditError> {
    let decide = |[servers, shards]: &[Read; 2]| {
        let known = servers.document.servers().value;
        if !known.contains_key(&server.id) {
            let unknown = vec![server.id.clone()];
            return Err(EditError::UnknownServers { unknown, known: known.into_keys().collect() });
        }
        super::maps::check_address(&known, server)?;
        let mut edits = Vec::new();
        let mut document = servers.document.clone();
        document.put_server(server);
        if document != servers.document {
            edits.push(servers.write(&document));
        }
        let mut entries = own(shards, &server.id)?;
        for entry in entries.values_mut() {
            entry.stages = [(server.id.clone(), Stage::Joining)].into();
        }
        edits.extend(write(shards, &entries).edits);
        Ok(Decision { edits, result: () })
    };
    Ok(change(store, [SERVERS, SHARDS], decide).await?.1)
}

/// A server that has everything is one like the others now.
pub async fn settle(store: &dyn MapStore, shard: &ShardId, server: &ServerId) -> Result<Outcome, EditError> {
    step(store, shard, (server, Stage::Joined), None).await
}

/// Takes a server out of the map that belongs to no shard.
pub async fn remove_server(store: &dyn MapStore, server: &ServerId) -> Result<Outcome, EditError> {
    let decide = |[servers, shards]: &[Read; 2]| {
        let entries = shards.document.shards().value;
        if let Some((shard, _)) = entries.iter().find(|(_, entry)| entry.servers.contains(server)) {
            return Err(EditError::StillMember { server: server.clone(), shard: shard.clone() });
        }
        if !servers.document.servers().value.contains_key(server) {
            return Ok(Decision::keep(()));
        }
        let mut document = servers.document.clone();
        document.remove_server(server);
        Ok(Decision { edits: vec![servers.write(&document)], result: () })
    };
    Ok(change(store, [SERVERS, SHARDS], decide).await?.1)
}

/// Takes a shard from one stage to the next. Being there already changes nothing.
async fn step(
    store: &dyn MapStore,
    shard: &ShardId,
    before: (&ServerId, Stage),
    after: Option<(&ServerId, Stage)>,
) -> Result<Outcome, EditError> {
    let decide = |[shards]: &[Read; 1]| advance(shards, shard, before, after);
    Ok(change(store, [SHARDS], decide).await?.1)
}

fn advance(
    shards: &Read,
    shard: &ShardId,
    before: (&ServerId, Stage),
    after: Option<(&ServerId, Stage)>,
) -> Result<Decision<()>, EditError> {
    let stages = |at: (&ServerId, Stage)| BTreeMap::from([(at.0.clone(), at.1)]);
    let after = after.map(stages).unwrap_or_default();
    let mut entry = member(&shards.document.shards().value, shard, before.0)?;
    if entry.stages == after {
        return Ok(Decision::keep(()));
    }
    if entry.stages != stages(before) {
        let (shard, server) = (shard.clone(), before.0.clone());
        return Err(EditError::OtherStage { shard, server, stage: before.1 });
    }
    entry.stages = after;
    Ok(write(shards, [(shard, &entry)]))
}

/// The entry of a shard, of which `server` must be.
fn member(entries: &Entries, shard: &ShardId, server: &ServerId) -> Result<ShardEntry, EditError> {
    let Some(entry) = entries.get(shard) else {
        let known = entries.keys().cloned().collect();
        return Err(EditError::UnknownShard { shard: shard.clone(), known });
    };
    if !entry.servers.contains(server) {
        let (shard, server) = (shard.clone(), server.clone());
        return Err(EditError::NotMember { shard, server, servers: entry.servers.clone() });
    }
    Ok(entry.clone())
}

/// No server is on its way in or out: two at once could leave a shard with nobody to read.
fn free(entry: &ShardEntry, shard: &ShardId) -> Result<(), EditError> {
    match entry.stages.iter().next() {
        Some((server, stage)) => {
            Err(EditError::OnItsWay { shard: shard.clone(), server: server.clone(), stage: *stage })
        }
        None => Ok(()),
    }
}

fn write<'a>(
    shards: &Read,
    entries: impl IntoIterator<Item = (&'a ShardId, &'a ShardEntry)>,
) -> Decision<()> {
    let mut document: Document = shards.document.clone();
    for (shard, entry) in entries {
        document.set_members(shard, &entry.servers, &entry.stages);
    }
    let edit = (document != shards.document).then(|| shards.write(&document));
    Decision { edits: edit.into_iter().collect(), result: () }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cluster::{StoreOptions, connect, edit},
        model::size,
    };

    fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn server(name: &str, port: u16) -> Server {
        Server { id: id(name), host: "h".into(), port }
    }

    /// Servers 1 to 4; shard s of 1 and 2, shard t of 3.
    async fn store(dir: &tempfile::TempDir) -> Arc<dyn MapStore> {
        let address = format!("embedded:{}", dir.path().display());
        let store = connect(&address, "/backpack", &StoreOptions::default()).unwrap();
        store.init().await.unwrap();
        for number in 1..=4u16 {
            edit::add_server(&*store, &server(&number.to_string(), number)).await.unwrap();
        }
        for (shard, servers) in [("s", &["1", "2"][..]), ("t", &["3"])] {
            let servers = servers.iter().map(|name| id(name)).collect();
            let capacity = size::parse("1gb").unwrap();
            let new = edit::NewShard { id: id(shard), servers, capacity, pool: None };
            edit::add_shard(&*store, &new, false).await.unwrap();
        }
        store
    }

    /// Servers and stages of shard s, as text.
    async fn shard(store: &Arc<dyn MapStore>) -> String {
        let entry = store.get(SHARDS).await.unwrap().unwrap();
        let entries = Document::parse(&entry.data).unwrap().shards();
        assert!(entries.complaints.is_empty(), "{:?}", entries.complaints);
        let entry = &entries.value[&id("s")];
        let servers = entry.servers.iter().map(|server| match entry.stages.get(server) {
            Some(stage) => format!("{server} {stage}"),
            None => server.to_string(),
        });
        servers.collect::<Vec<_>>().join(", ")
    }

    #[tokio::test]
    async fn a_server_is_moved_step_by_step_and_no_step_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (store, s) = (store(&dir).await, id("s"));
        let (one, four) = (id("1"), id("4"));
        let all = &*store;
        assert!(hand_over(all, &s, &one, &four).await.is_err() && retire(all, &s, &one).await.is_err());
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(join(all, &s, &one, &four).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1, 4 joining, 2");
        }
        assert!(hand_over(all, &s, &one, &four).await.is_err(), "it is not known to be full");
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(filled(all, &s, &server("4", 4)).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1, 4 joined, 2");
        }
        assert!(retire(all, &s, &one).await.is_err() && leave(all, &s, &one).await.is_err());
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(hand_over(all, &s, &one, &four).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1 leaving, 4, 2");
        }
        assert!(leave(all, &s, &one).await.is_err());
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(retire(all, &s, &one).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1 left, 4, 2");
        }
        assert!(remove_server(all, &one).await.is_err(), "it is still in the shard");
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(leave(all, &s, &one).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "4, 2");
        }
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(remove_server(all, &one).await.unwrap(), outcome);
        }
    }

    #[tokio::test]
    async fn a_server_is_replaced_where_others_have_its_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let (store, s) = (store(&dir).await, id("s"));
        let two = id("2");
        for stage in [Stage::Leaving, Stage::Left] {
            for outcome in [Outcome::Changed, Outcome::Unchanged] {
                assert_eq!(withdraw(&*store, &two, stage).await.unwrap(), outcome);
                assert_eq!(shard(&store).await, format!("1, 2 {stage}"));
            }
        }
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(replace_server(&*store, &server("2", 22)).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1, 2 joining");
        }
        let busy = join(&*store, &s, &id("1"), &id("4")).await.unwrap_err();
        assert!(busy.to_string().contains("server 2 of shard s is joining"), "{busy}");
        let other = replace_server(&*store, &server("1", 11)).await.unwrap_err();
        assert!(matches!(other, EditError::OnItsWay { .. }), "{other}");
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(filled(&*store, &s, &server("2", 22)).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1, 2 joined");
        }
        for outcome in [Outcome::Changed, Outcome::Unchanged] {
            assert_eq!(settle(&*store, &s, &two).await.unwrap(), outcome);
            assert_eq!(shard(&store).await, "1, 2");
        }
        let alone = replace_server(&*store, &server("3", 33)).await.unwrap_err();
        assert!(matches!(alone, EditError::OnlyServer { .. }), "{alone}");
        let taken = replace_server(&*store, &server("1", 4)).await.unwrap_err();
        assert!(matches!(taken, EditError::AddressTaken { .. }), "{taken}");
        let stranger = replace_server(&*store, &server("9", 9)).await.unwrap_err();
        assert!(matches!(stranger, EditError::UnknownServers { .. }), "{stranger}");
    }

    #[tokio::test]
    async fn a_machine_that_was_half_filled_is_not_read_when_a_third_one_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (store, s) = (store(&dir).await, id("s"));
        replace_server(&*store, &server("2", 22)).await.unwrap();
        for stage in [Stage::Leaving, Stage::Left] {
            assert_eq!(withdraw(&*store, &id("2"), stage).await.unwrap(), Outcome::Unchanged);
            assert_eq!(shard(&store).await, "1, 2 joining");
        }
        replace_server(&*store, &server("2", 222)).await.unwrap();
        let second = filled(&*store, &s, &server("2", 22)).await.unwrap_err();
        assert!(matches!(second, EditError::OtherMachine { .. }), "{second}");
        assert_eq!(shard(&store).await, "1, 2 joining");
    }

    #[tokio::test]
    async fn what_belongs_elsewhere_or_is_not_there_does_not_join() {
        let dir = tempfile::tempdir().unwrap();
        let (store, s) = (store(&dir).await, id("s"));
        let refused = [("1", "3"), ("1", "2"), ("1", "9"), ("4", "4")];
        for (from, to) in refused {
            assert!(join(&*store, &s, &id(from), &id(to)).await.is_err(), "{from} {to}");
        }
        assert!(join(&*store, &id("u"), &id("1"), &id("4")).await.is_err());
        assert_eq!(shard(&store).await, "1, 2");
    }
}
