//! The command line of `backpack-admin`.

use std::{ffi::OsString, process::ExitCode};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};

use super::{
    MISUSE, add_server::AddServer, add_shard::AddShard, bench, completions::Completions,
    coordinator_init::CoordinatorInit, disable_shard::DisableShard, drain_server::DrainServer,
    dump_shards::DumpShards, enable_shard::EnableShard, move_shard::MoveShard, nginx_config::NginxConfig,
    old_names, print_stats::PrintStats, put, queue::QueueCommand, recount::Recount,
    replace_server::ReplaceServer, scrub::ScrubShards, set_pool::SetPool, set_queue::SetQueue,
    status::Status, volume::VolumeCommand,
};
use crate::telemetry::log::LogArgs;

/// Sets up a Backpack cluster and looks after it
#[derive(Debug, Parser)]
#[command(name = "backpack-admin", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON, for programs
    #[arg(
        long,
        global = true,
        env = "BACKPACK_JSON",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub json: bool,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes an empty cluster in ZooKeeper and says where its queue is
    CoordinatorInit(CoordinatorInit),
    /// Adds a server to the map, or changes the address of one
    AddServer(AddServer),
    /// Makes a shard of servers, read-only until it is enabled
    AddShard(AddShard),
    /// Lets uploads into a shard
    EnableShard(EnableShard),
    /// Ends uploads into a shard; its blobs stay readable
    DisableShard(DisableShard),
    /// Puts an empty machine in the place of a server, and fills it
    ReplaceServer(ReplaceServer),
    /// Takes a shard from one server to another, while it is in use
    MoveShard(MoveShard),
    /// Moves all that a server holds to others, and takes it out of the map
    DrainServer(DrainServer),
    /// Says where the copies still to be made are kept from now on
    SetQueue(SetQueue),
    /// Says how the uploads of a pool are written and which hosts choose it; what is not given stays
    SetPool(SetPool),
    /// Prints every shard with the addresses of its servers, as JSON
    DumpShards(DumpShards),
    /// Prints how full the shards are
    PrintStats(PrintStats),
    /// Shows the whole cluster on one screen, and what needs attention
    Status(Status),
    /// The copies still to be made, and those that were given up
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Asks the servers how much they hold, and sets the used bytes of each shard to that
    Recount(Recount),
    /// Compares the servers of each shard, and queues the copies and deletes that are missing
    Scrub(ScrubShards),
    /// Writes the configuration with which nginx serves reads from every shard
    NginxConfig(NginxConfig),
    /// Uploads files, or whole folders, through a coordinator
    Put(put::Args),
    /// Reads every file of an upload back and compares it with the file on disk
    Verify(put::VerifyArgs),
    /// Measures uploads and reads: throughput, latency, errors
    Bench(bench::Args),
    /// The data directory of one node: what is in it, and whether it is whole
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Prints what a shell needs to complete the commands
    Completions(Completions),
}

impl Cli {
    /// Reads the arguments of the process. Where they make no sense, or ask for help, that is printed, and the exit code
    /// is returned.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        let call = old_names::translate(args.into_iter().collect());
        Self::read(&call.args).map_err(|error| {
            match call.usage.filter(|_| error.use_stderr()) {
                Some(usage) => eprintln!("{}", old_names::complaint(&usage, &error)),
                // Nobody to tell if this fails.
                None => drop(error.print()),
            }
            if error.use_stderr() { ExitCode::from(MISUSE) } else { ExitCode::SUCCESS }
        })
    }

    fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        let matches = program().try_get_matches_from(args).map_err(without_password)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut program()))
    }
}

/// Complaints repeat the value they are about, and are kept in logs. Addresses with a password are refused, so what has an
/// `@` in it is not repeated.
fn without_password(mut error: clap::Error) -> clap::Error {
    let value = error.get(ContextKind::InvalidValue);
    if matches!(value, Some(ContextValue::String(value)) if value.contains('@')) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("...".into()));
    }
    error
}

/// Somebody at a terminal wants to hear only of trouble, and only once: the ZooKeeper client complains of each try to
/// connect, and what the storage says of a data directory is in the reports.
const LOG: &str = "warn,zookeeper_client=off,backpack::storage=off,backpack::storage::saver=warn";

/// The whole command line, for reading arguments and for completions.
pub fn program() -> clap::Command {
    Cli::command().mut_arg("log", |log| log.default_value(LOG))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command at the end of a line, with the names that lead to it.
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            if sub.has_subcommands() {
                leaves(sub, &path, found);
            } else {
                found.push((path, sub.clone()));
            }
        }
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        leaves(&program(), "backpack-admin", &mut found);
        found
    }

    #[test]
    fn the_command_line_is_consistent() {
        program().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_of_itself() {
        for (path, command) in all() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with(&format!("Example:\n  {path} ")), "{path}: {help:?}");
        }
    }

    #[test]
    fn every_flag_can_be_set_in_the_environment() {
        for (path, command) in all() {
            for flag in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let name = flag.get_id().as_str();
                let env = flag.get_env().and_then(|env| env.to_str()).unwrap_or_default();
                assert!(env.starts_with("BACKPACK_") || name == "help", "{path} --{name} has {env:?}");
            }
        }
    }

    #[test]
    fn only_trouble_is_logged_unless_asked_for_more() {
        let read = |args: &str| Cli::read(&args.split(' ').map(OsString::from).collect::<Vec<_>>()).unwrap();
        assert_eq!(read("backpack-admin print-stats zk /b").log.log, LOG);
        assert_eq!(read("backpack-admin print-stats zk /b --log debug").log.log, "debug");
        assert!(read("backpack-admin print-stats zk /b --json").json);
    }
}
