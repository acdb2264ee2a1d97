//! Logs, one line an event, on standard error: human-readable or JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// While ZooKeeper is away its driver warns of each try, dozens of times a second; what follows from it, our own code says.
const DEFAULT_FILTER: &str = "info,zookeeper_client=error";

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Logging settings of every program.
#[derive(Debug, Clone, clap::Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(
        long,
        env = "BACKPACK_LOG_FORMAT",
        value_enum,
        default_value_t,
        global = true,
        help_heading = "Logging"
    )]
    pub log_format: Format,

    /// What is logged: error, warn, info, debug, trace, or filters as `backpack::coordinator=debug,info`
    #[arg(
        long,
        env = "BACKPACK_LOG",
        default_value = DEFAULT_FILTER,
        value_name = "FILTER",
        global = true,
        help_heading = "Logging"
    )]
    pub log: String,
}

/// Starts logging. An unreadable filter is an error that says so; a second call in one process changes nothing.
pub fn init(args: &LogArgs) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| format!("--log {:?}: {error}; try 'info' or 'backpack=debug,info'", args.log))?;
    let colours = std::io::stderr().is_terminal();
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let started = match args.log_format {
        Format::Human => {
            tracing_subscriber::registry().with(filter).with(layer.with_target(false)).try_init()
        }
        Format::Json => {
            let json = layer.json().flatten_event(true).with_span_list(false);
            tracing_subscriber::registry().with(filter).with(json).try_init()
        }
    };
    // The only error is that logging runs already, as it does in tests that start several roles.
    drop(started);
    Ok(())
}
