//! The Java runtime, its flags, and one process of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Failure;
use super::args::Jvm;

/// The oldest runtime that Kafka 4 brokers accept.
const OLDEST: u32 = 17;

/// A Java runtime of this machine.
#[derive(Debug)]
pub(super) struct Java {
    program: PathBuf,
    /// Such as `17.0.15`.
    pub(super) version: String,
}

impl Java {
    /// `$JAVA_HOME/bin/java`, else `java` from the path, when it is new enough.
    pub(super) fn find() -> Result<Self, Failure> {
        let program = match std::env::var_os("JAVA_HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home).join("bin").join("java"),
            _ => PathBuf::from("java"),
        };
        let output = Command::new(&program).arg("-version").stdin(Stdio::null()).output().map_err(|error| {
            let hint = "install a Java runtime (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME";
            Failure::failed(format!("run {}: {error}; {hint}", program.display()))
        })?;
        let text = String::from_utf8_lossy(&output.stderr);
        let version = version(&text).ok_or_else(|| {
            Failure::failed(format!("{} -version said: {}", program.display(), text.trim()))
        })?;
        if major(&version) < OLDEST {
            let found = program.display();
            return Err(Failure::failed(format!("{found} is Java {version}, Kafka needs {OLDEST} or newer")));
        }
        Ok(Self { program, version })
    }

    /// A command that runs `class` from the jars in `jars`, in the directory `dir`.
    pub(super) fn command(&self, jars: &Path, dir: &Path, flags: &[String], class: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(flags).arg("-cp").arg(jars.join("*")).arg(class).current_dir(dir).stdin(Stdio::null());
        command
    }
}

/// The quoted version of `java -version`.
fn version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains(" version \""))?;
    line.split('"').nth(1).map(str::to_owned)
}

/// 17 of `17.0.15`, 8 of `1.8.0_402`, 0 where there is no number.
fn major(version: &str) -> u32 {
    let mut numbers = version.split(['.', '-', '_', '+']).map(|part| part.parse().unwrap_or(0));
    match numbers.next() {
        Some(1) => numbers.next().unwrap_or(0),
        other => other.unwrap_or(0),
    }
}

/// Flags of a process that runs for a second.
pub(super) fn short_flags() -> Vec<String> {
    ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx96m"].map(str::to_owned).into()
}

/// Flags of a broker.
pub(super) fn broker_flags(jvm: Jvm) -> Vec<String> {
    let flags: &[&str] = match jvm {
        Jvm::Small => &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xms64m", "-Xmx256m"],
        Jvm::Default => &["-Xms1g", "-Xmx1g"],
    };
    let always = ["-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"];
    flags.iter().chain(&always).map(|flag| (*flag).to_owned()).collect()
}

/// Starts a command that outlives this program: its own process group, output appended to `log`.
pub(super) fn spawn_detached(command: &mut Command, log: &Path) -> Result<Child, Failure> {
    let open = |path: &Path| File::options().create(true).append(true).open(path);
    let attempt = |error| Failure::io(format!("open {}", log.display()), error);
    let out = open(log).map_err(attempt)?;
    let err = out.try_clone().map_err(attempt)?;
    command
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::io(format!("run {}", command.get_program().display()), error))
}

/// Whether `pid` is a live process with `marker` in its command line: a number alone may have gone to another program.
pub(super) fn is_alive(pid: u32, marker: &str) -> bool {
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => String::from_utf8_lossy(&line).contains(marker),
        Err(_) if Path::new("/proc/self/cmdline").exists() => false,
        // No process file system.
        Err(_) => Command::new("ps")
            .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(marker)),
    }
}

/// Sends a signal, named as in `TERM`.
pub(super) fn signal(pid: u32, name: &str) -> io::Result<()> {
    // The shell's own kill: there is one on every machine, and no unsafe code here.
    let status = Command::new("sh")
        .args(["-c", "kill -\"$1\" \"$2\"", "sh", name, &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -{name} {pid} failed"))) }
}

/// Waits for the end of a process; whether it ended within `limit`.
pub(super) fn wait_for_end(pid: u32, marker: &str, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        if !is_alive(pid, marker) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let text =
            "Picked up JAVA_TOOL_OPTIONS: -Dx\nopenjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime\n";
        assert_eq!(version(text).as_deref(), Some("17.0.15"));
        assert_eq!(version("no such thing"), None);
        for (text, expected) in [("17.0.15", 17), ("21", 21), ("1.8.0_402", 8), ("25-ea", 25), ("", 0)] {
            assert_eq!(major(text), expected, "{text}");
        }
    }

    #[test]
    fn own_process_is_alive() {
        let pid = std::process::id();
        assert!(is_alive(pid, "protocol_tests"));
        assert!(!is_alive(pid, "no such word in this command line"));
    }

    #[test]
    fn signals_end_a_process() {
        let mut child = Command::new("sleep").arg("61.5").spawn().unwrap();
        // The command line is empty for a moment while the program is loaded.
        let end = Instant::now() + Duration::from_secs(10);
        while !is_alive(child.id(), "61.5") {
            assert!(Instant::now() < end, "sleep did not start");
            sleep(Duration::from_millis(1));
        }
        assert!(!wait_for_end(child.id(), "61.5", Duration::ZERO));
        signal(child.id(), "KILL").unwrap();
        assert!(wait_for_end(child.id(), "61.5", Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(signal(child.id(), "NOSUCH").is_err());
    }
}
