//! Starting the other processes, and never waiting for one without a limit.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::order::Order;
use crate::peer::Result;

/// A round's own directory and tag; dropping it removes what is left under either.
pub struct Scene {
    /// The directory, with a short name, since sockets are bound in it.
    pub dir: PathBuf,
    /// What names outside of it begin with.
    pub tag: String,
}

impl Scene {
    /// Makes the directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new() -> Result<Scene> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("peers-{}-{number}-", std::process::id());
        let dir = std::env::temp_dir().join(&tag);
        fs::create_dir(&dir)?;
        Ok(Scene { dir, tag })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.tag) {
                let path = entry.path();
                // One of the two is right for what it is.
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
        }
    }
}

/// A started process; dropping it kills and reaps it.
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts this program again with `order`; `label` names the file for its complaints.
    ///
    /// It dies with the thread that calls this, which must be the main thread.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(order: &Order, label: &str) -> Result<Process> {
        let log = order.place.dir.join(format!("{label}.log"));
        let mut child = Command::new(std::env::current_exe()?)
            .arg("child")
            .arg(serde_json::to_string(order)?)
            .env("TMPDIR", &order.place.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            // Ends with the process.
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                    let _ = sender.send(line);
                }
            });
        }
        let input = child.stdin.take();
        Ok(Process { child, input, lines, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a line.
    ///
    /// # Errors
    /// When it is gone.
    pub fn tell(&mut self, line: &impl Serialize) -> Result<()> {
        let input = self.input.as_mut().ok_or("a process has no input")?;
        let line = serde_json::to_string(line)? + "\n";
        Ok(input.write_all(line.as_bytes())?)
    }

    /// Waits for a line that is a `T`; others are passed over.
    ///
    /// # Errors
    /// `None` when there is none in time, and what it complained of when it has ended.
    pub fn hear<T: DeserializeOwned>(&self, limit: Duration) -> Result<Option<T>> {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Ok(heard) = serde_json::from_str(&line) {
                        return Ok(Some(heard));
                    }
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return Ok(None),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(self.complaint().unwrap_or("a process ended".into()).into());
                }
            }
        }
    }

    /// The last line that it wrote to standard error.
    pub fn complaint(&self) -> Option<String> {
        last_line(&self.log)
    }

    /// Kills it, without waiting until it is gone.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_line(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
