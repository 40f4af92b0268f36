//! Tasks of the process that the caller belongs to.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use std::thread::current;

use crate::clock;
use crate::sim::start;
use crate::sim::world::{Wait, inside};

/// Makes threads; as `std`'s.
#[derive(Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// For a thread without a name.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// For a thread of this name.
    pub fn name(self, name: String) -> Builder {
        Builder { name: Some(name) }
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// What the real system says.
    pub fn spawn<T: Send + 'static>(
        self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        start(inside().process, self.name.as_deref().unwrap_or("thread"), body)
    }
}

/// A thread that can be waited for.
#[derive(Debug)]
pub struct JoinHandle<T> {
    pub(crate) task: usize,
    pub(crate) thread: std::thread::Thread,
    pub(crate) result: Arc<Mutex<Option<std::thread::Result<T>>>>,
}

impl<T> JoinHandle<T> {
    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// Its process was killed.
    pub fn join(self) -> std::thread::Result<T> {
        let here = inside();
        here.point("thread.join", 500);
        here.block(here.world.lock(), Wait::Task(self.task), None);
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(Box::new("the process was killed")))
    }

    /// Whether it has ended, or was killed.
    pub fn is_finished(&self) -> bool {
        inside().operation("thread.is_finished", 100, |state| state.has_ended(self.task))
    }

    /// The thread itself.
    pub fn thread(&self) -> &std::thread::Thread {
        &self.thread
    }
}

/// Sleeps for a time of the virtual clock.
pub fn sleep(time: Duration) {
    let here = inside();
    let deadline_ns = clock::deadline_ns(time);
    here.block(here.world.lock(), Wait::Time, Some(deadline_ns));
}
