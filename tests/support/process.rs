//! A child process of a test: with a log, killed when dropped, and killed by the kernel when the test process dies.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, mpsc},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::wait::{Deadline, wait_for};

/// How much of its log is shown when a test fails.
const LOG_TAIL_BYTES: usize = 4096;

/// How long a program with children may take to end them when it is dropped.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How long the threads of a program may take to stand still.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// What to start. It is kept, so that the process can be started again in the same way.
#[derive(Clone)]
pub struct Program {
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    folder: PathBuf,
    has_children: bool,
}

impl Program {
    /// A program that runs in `folder`, where its log is written too.
    pub fn new(program: impl Into<PathBuf>, folder: &Path) -> Self {
        let program = program.into();
        Self { program, args: Vec::new(), envs: Vec::new(), folder: folder.to_owned(), has_children: false }
    }

    /// It has processes of its own, which end with it only when it is asked to end (nginx with its workers). So it is
    /// asked, by SIGTERM, before it is killed.
    pub fn has_children(mut self) -> Self {
        self.has_children = true;
        self
    }

    /// Adds arguments.
    pub fn args<S: ToString>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.to_string()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, log: &Path) -> Command {
        let log = fs::File::options().append(true).create(true).open(log).expect("open the log");
        // `setpriv` sets the signal that the kernel sends when the parent dies, then becomes the program: same pid.
        let mut command = Command::new(required("setpriv", "util-linux"));
        let death_signal = if self.has_children { "TERM" } else { "KILL" };
        command.args(["--pdeathsig", death_signal, "--"]).arg(&self.program).args(&self.args);
        command.envs(self.envs.iter().map(|(name, value)| (name, value))).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        command
    }
}

/// A process that runs a [`Program`]. The servers and programs of the other files deref to theirs: all of them are killed,
/// frozen and looked at in the same way.
pub struct Process {
    program: Program,
    log: PathBuf,
    state: Mutex<State>,
}

struct State {
    child: Child,
    /// Where the log of this run begins.
    log_start: u64,
}

impl Process {
    /// Starts it; the caller waits until it answers.
    pub fn start(program: Program) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = program.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = program.folder.join(format!("{name}-{number}.log"));
        let state = Mutex::new(State { child: spawn(program.command(&log)), log_start: 0 });
        Self { program, log, state }
    }

    /// SIGKILL, and waits until it is gone. What it kept on disk stays for [`Process::start_again`].
    pub fn kill(&self) {
        let mut state = self.state();
        // An error means that it ended by itself, which is what was wanted.
        let _ = state.child.kill();
        let _ = state.child.wait();
    }

    /// SIGSTOP: it keeps its connections and answers nothing. Waits until all its threads stand still: on a busy machine
    /// they may answer for a while after the signal.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.id());
        let stands_still = |thread: io::Result<fs::DirEntry>| {
            let stat = thread.and_then(|thread| fs::read_to_string(thread.path().join("stat")));
            // A thread that has just ended cannot be read. The state follows the name, which is in brackets.
            stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        };
        wait_for("all threads stand still", STOP_WITHIN, || {
            fs::read_dir(&threads).expect("list the threads of a child").all(stands_still).then_some(())
        });
    }

    /// SIGCONT: ends [`Process::stop`].
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end that the program chooses. Panics when it takes longer.
    pub fn terminate(&self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_end(within)
    }

    /// Waits until it ends by itself. Panics when it takes longer.
    pub fn wait_for_end(&self, within: Duration) -> ExitStatus {
        wait_for("the process ends", within, || self.ended())
    }

    /// Starts it again with the same arguments; ends it first if it runs.
    pub fn start_again(&self) {
        self.start_again_with::<&str>([]);
    }

    /// The same with more arguments for this once.
    pub fn start_again_with<S: ToString>(&self, more: impl IntoIterator<Item = S>) {
        self.kill();
        let mut state = self.state();
        state.log_start = fs::metadata(&self.log).map_or(0, |log| log.len());
        state.child = spawn(self.program.clone().args(more).command(&self.log));
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.state().child.try_wait().expect("ask for the state of a child")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.state().child.id()
    }

    /// What it wrote to stdout and stderr since it was last started.
    pub fn log(&self) -> String {
        let start = self.state().log_start as usize;
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
    }

    /// Waits until it answers as `answers` sees it. Panics with its log when it ends or is not there in time.
    pub fn wait_until_up(&self, within: Duration, mut answers: impl FnMut() -> bool) {
        let name = self.program.program.display();
        wait_for(&format!("{name} answers"), within, || {
            let ended = self.ended();
            assert!(ended.is_none(), "{name} ended ({ended:?}) before it answered:\n{}", self.log_tail());
            answers().then_some(())
        });
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        log[log.floor_char_boundary(log.len().saturating_sub(LOG_TAIL_BYTES))..].to_owned()
    }

    fn signal(&self, signal: Signal) {
        let mut state = self.state();
        // A child that was not waited for keeps its pid, so the signal cannot reach a stranger.
        if state.child.try_wait().expect("ask for the state of a child").is_none() {
            kill_process(Pid::from_child(&state.child), signal).expect("signal a child of ours");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.program.has_children {
            self.signal(Signal::TERM);
            // Beyond that the kill below ends it, whatever becomes of its children.
            let deadline = Deadline::within(END_WITHIN);
            while self.ended().is_none() && !deadline.is_over() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.program.program.display(), self.log_tail());
        }
    }
}

/// Where a program is. Panics with the package to install when it is missing.
pub fn required(program: &str, package: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!("{program} is not installed: run `make setup`, or install Debian's package {package}")
    })
}

/// Spawns from one thread that lives as long as the test process: the kernel sends the death signal when the thread that
/// spawned ends, and a test's thread ends before a server that other tests share.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The one who ordered waits for this reply.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, child) = mpsc::sync_channel(1);
    spawner.lock().unwrap().send((command, reply)).expect("the spawning thread never ends");
    child.recv().expect("the spawning thread never ends").expect("start a program that is installed")
}
