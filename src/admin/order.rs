//! The order in which people expect ids: 2 before 10, numbers before names. It is also the order in which the original
//! prints them.

use crate::{
    cluster::edit::EditError,
    model::{ClusterMap, Server, Shard, ShardId},
};

/// Sorts ids for people when used as a key.
fn natural(id: &str) -> (bool, u64, String) {
    match id.parse::<u64>() {
        Ok(number) => (false, number, id.to_owned()),
        Err(_) => (true, 0, id.to_owned()),
    }
}

/// The shards of a map, in the natural order of their ids.
pub fn shards(map: &ClusterMap) -> Vec<&Shard> {
    in_order(map.shards.values().map(AsRef::as_ref), |shard: &&Shard| shard.id.as_str())
}

/// The servers of a map, in the natural order of their ids.
pub fn servers(map: &ClusterMap) -> Vec<&Server> {
    in_order(map.servers.values().map(AsRef::as_ref), |server: &&Server| server.id.as_str())
}

/// The items, in the natural order of their ids.
pub fn in_order<T>(items: impl IntoIterator<Item = T>, id: impl Fn(&T) -> &str) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_by_cached_key(|item| natural(id(item)));
    items
}

/// Those that were asked for; all of them, if none was.
pub fn chosen<'a>(map: &'a ClusterMap, asked: &[ShardId]) -> Result<Vec<&'a Shard>, EditError> {
    if let Some(unknown) = asked.iter().find(|id| !map.shards.contains_key(id)) {
        let known = map.shards.keys().cloned().collect();
        return Err(EditError::UnknownShard { shard: unknown.clone(), known });
    }
    let mut shards = shards(map);
    shards.retain(|shard| asked.is_empty() || asked.contains(&shard.id));
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_and_come_before_names() {
        assert_eq!(in_order(["10", "b", "2", "1", "a"], |id| id), ["1", "2", "10", "a", "b"]);
    }
}
