//! What the rendering makes of unusual maps, and that the shipped example is what it writes.

use std::sync::Arc;

use super::*;
use crate::model::Stage;

/// Shards as `id = servers`; servers are at 127.0.0.1, port 10000 and their number.
fn map(shards: &[(&str, &[&str])], servers: &[&str]) -> ClusterMap {
    let mut map = ClusterMap::default();
    for id in servers {
        let port = 10_000 + id.parse::<u16>().unwrap();
        let id: ServerId = id.parse().unwrap();
        map.servers.insert(id.clone(), Arc::new(Server { id, host: "127.0.0.1".into(), port }));
    }
    for (id, servers) in shards {
        let id: ShardId = id.parse().unwrap();
        let shard = Shard {
            id: id.clone(),
            servers: servers.iter().map(|id| id.parse().unwrap()).collect(),
            stages: Default::default(),
            read_only: false,
            pool: Default::default(),
            size: None,
        };
        map.shards.insert(id, Arc::new(shard));
    }
    map
}

fn render_default(map: &ClusterMap) -> String {
    render(map, &Options::default()).unwrap()
}

#[test]
fn the_shipped_example_is_what_is_written_for_the_readme() {
    let shards: [(&str, &[&str]); 3] = [("1", &["1", "4"]), ("2", &["2", "5"]), ("3", &["3", "6"])];
    let rendered = render_default(&map(&shards, &["1", "2", "3", "4", "5", "6"]));
    let shipped = include_str!("../../../../examples/nginx.conf");
    assert!(rendered == shipped, "examples/nginx.conf should be:\n{rendered}");
}

#[test]
fn a_server_that_is_not_read_is_no_upstream() {
    let mut map = map(&[("1", &["1", "4"])], &["1", "4"]);
    let mut at_stage = |stage| {
        let shard = Arc::make_mut(map.shards.values_mut().next().unwrap());
        shard.stages.insert("4".parse().unwrap(), stage);
        render_default(&map)
    };
    for stage in [Stage::Joining, Stage::Left] {
        let rendered = at_stage(stage);
        assert!(
            rendered.contains("# server 4 is not read now") && !rendered.contains("server 127.0.0.1:10004")
        );
    }
    for stage in [Stage::Joined, Stage::Leaving] {
        assert!(at_stage(stage).contains("server 127.0.0.1:10004"), "{stage}");
    }
}

#[test]
fn no_placeholder_stays() {
    let shards: [(&str, &[&str]); 2] = [("@tries@", &["1", "9"]), ("empty", &[])];
    let rendered = render_default(&map(&shards, &["1"]));
    assert_eq!(rendered.matches('@').count(), 2, "those of the id, in its pattern: {rendered}");
    assert!(rendered.contains(r#""~^\@tries\@$" backpack-shard-_40tries_40;"#));
}

#[test]
fn a_server_missing_in_the_map_is_left_out() {
    let rendered = render_default(&map(&[("1", &["1", "9"])], &["1"]));
    assert!(rendered.contains("server 127.0.0.1:10001 max_fails"));
    assert!(rendered.contains("# server 9 is not in the map"));
    assert!(!rendered.contains(":10009"));
    assert!(rendered.contains("proxy_next_upstream_tries 1;"));
    assert!(!rendered.contains("503;\n        }"), "every shard has a server");
}

#[test]
fn a_shard_without_servers_answers_503() {
    let rendered = render_default(&map(&[("1", &["1"]), ("2", &["9"])], &["1"]));
    assert!(rendered.contains(r#""2" unreachable;"#));
    assert!(rendered.contains(UNREACHABLE_GUARD));
    assert!(!rendered.contains("upstream backpack-shard-2"), "nginx refuses an upstream without servers");
}

#[test]
fn as_many_tries_as_the_largest_shard_has_servers() {
    let rendered = render_default(&map(&[("1", &["1"]), ("2", &["1", "2", "3"])], &["1", "2", "3"]));
    assert!(rendered.contains("proxy_next_upstream_tries 3;"));
}

#[test]
fn ids_are_matched_as_sent_and_named_safely() {
    for (id, pattern, name) in [
        ("photos-a", "photos-a", "backpack-shard-photos-a"),
        ("node_7.example", r"node_7\.example", "backpack-shard-node_5f7.example"),
        ("A", "A", "backpack-shard-_41"),
        ("a(b)+", r"a\(b\)\+", "backpack-shard-a_28b_29_2b"),
        ("\u{444}", "(?:\u{444}|(?i:%d1%84))", "backpack-shard-_d1_84"),
    ] {
        let id: ShardId = id.parse().unwrap();
        assert_eq!((id_pattern(&id).as_str(), upstream_name(&id).as_str()), (pattern, name));
    }
}

#[test]
fn only_what_has_no_case_is_looked_up() {
    for (id, line) in [
        ("7", r#""7" "#),
        ("2024-10_1.5", r#""2024-10_1.5" "#),
        ("7a", r#""~^7a$" "#),
        ("~7", r#""~^\~7$" "#),
        ("-7", r#""~^-7$" "#),
        ("7\u{444}", "\"~^(?:7\u{444}|7(?i:%d1%84))$\" "),
    ] {
        let map = map(&[(id, &["1"])], &["1"]);
        let line_of = shard_line(&map, map.shards.values().next().unwrap());
        assert!(line_of.trim_start().starts_with(line), "{line_of}");
    }
}

#[test]
fn an_ipv6_server_stands_in_brackets() {
    let mut map = map(&[("1", &["1"])], &["1"]);
    let id: ServerId = "1".parse().unwrap();
    map.servers.insert(id.clone(), Arc::new(Server { id, host: "::1".into(), port: 80 }));
    assert!(render_default(&map).contains("server [::1]:80 max_fails"));
}

#[test]
fn what_would_break_the_file_is_refused() {
    for host in ["", "a b", "a;", "http://a", "a:b", "a{"] {
        let mut map = map(&[("1", &["1"])], &["1"]);
        let id: ServerId = "1".parse().unwrap();
        map.servers.insert(id.clone(), Arc::new(Server { id: id.clone(), host: host.into(), port: 80 }));
        let refused = RenderError::BadHost { id, host: host.into() };
        assert_eq!(render(&map, &Options::default()), Err(refused));
    }
    for listen in ["", "80; }", "80\n"] {
        assert!(render(&ClusterMap::default(), &Options { listen: listen.into() }).is_err(), "{listen:?}");
    }
}
