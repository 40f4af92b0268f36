//! The demo's list of jobs: which files are to be checked, who has which, what is left.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// Jobs that a client may hold; enough that it never waits for the next one.
const HELD_MAX: usize = 128;

/// A client that holds files of so many bytes gets no more.
const HELD_BYTES_MAX: u64 = 8 << 20;

/// All jobs of the demo. A job is a file in a round; the tree is walked in rounds.
pub struct Work {
    files: Vec<(PathBuf, u64)>,
    /// The next job never handed out.
    next: u32,
    /// Jobs handed out before to clients that are gone.
    again: VecDeque<u32>,
    /// Jobs of all rounds begun.
    all: u32,
    held: Vec<BTreeSet<u32>>,
    done: u32,
}

impl Work {
    /// Makes one round of jobs for that many clients.
    ///
    /// # Panics
    /// When there are no files, or four billion.
    pub fn new(files: Vec<(PathBuf, u64)>, clients: usize) -> Work {
        let all = u32::try_from(files.len()).ok().filter(|all| *all > 0);
        let all = all.expect("at least one file, and less than 2^32");
        let held = vec![BTreeSet::new(); clients];
        Work { files, next: 0, again: VecDeque::new(), all, held, done: 0 }
    }

    /// Hands the next job to a client. With `endless`, another round begins after the last.
    ///
    /// None when it holds enough, or there is no more to do.
    pub fn hand_out(&mut self, client: usize, endless: bool) -> Option<(u32, &Path)> {
        let held = &self.held[client];
        let bytes: u64 = held.iter().map(|job| self.file(*job).1).sum();
        if held.len() >= HELD_MAX || bytes >= HELD_BYTES_MAX {
            return None;
        }
        let round = self.files.len() as u32;
        if self.again.is_empty() && self.next == self.all && endless {
            self.all = self.all.checked_add(round)?;
        }
        let job = match self.again.pop_front() {
            Some(job) => job,
            None if self.next < self.all => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.held[client].insert(job);
        Some((job, self.path(job)))
    }

    /// The file of a job.
    pub fn path(&self, job: u32) -> &Path {
        &self.file(job).0
    }

    fn file(&self, job: u32) -> &(PathBuf, u64) {
        &self.files[job as usize % self.files.len()]
    }

    /// Takes note that a client has done a job. False when it did not hold it.
    pub fn done(&mut self, client: usize, job: u32) -> bool {
        let held = self.held[client].remove(&job);
        self.done += u32::from(held);
        held
    }

    /// Takes back what a client that is gone has not done.
    pub fn take_back(&mut self, client: usize) -> usize {
        let held = std::mem::take(&mut self.held[client]);
        self.again.extend(&held);
        held.len()
    }

    /// Jobs that a client holds.
    pub fn held(&self, client: usize) -> usize {
        self.held[client].len()
    }

    /// Whether every job is done.
    pub fn is_finished(&self) -> bool {
        self.done == self.all
    }

    /// Jobs done.
    pub fn count_done(&self) -> u32 {
        self.done
    }

    /// Jobs of all rounds begun.
    pub fn count_all(&self) -> u32 {
        self.all
    }

    /// Files in the tree.
    pub fn count_files(&self) -> u32 {
        self.files.len() as u32
    }

    /// Rounds begun.
    pub fn rounds(&self) -> u32 {
        self.all / self.count_files()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(count: usize) -> Vec<(PathBuf, u64)> {
        (0..count).map(|number| (PathBuf::from(number.to_string()), 1)).collect()
    }

    #[test]
    fn every_job_is_done_once_even_after_a_loss() {
        let mut work = Work::new(files(200), 2);
        let mut held = 0;
        while work.hand_out(0, false).is_some() {
            held += 1;
        }
        assert_eq!(held, HELD_MAX);
        assert!(work.done(0, 5) && !work.done(0, 5) && !work.done(1, 6));
        assert_eq!(work.take_back(0), HELD_MAX - 1);
        let mut seen = BTreeSet::from([5]);
        while let Some((job, path)) =
            work.hand_out(1, false).map(|(job, path)| (job, path.to_owned()))
        {
            assert_eq!(path, PathBuf::from(job.to_string()));
            assert!(work.done(1, job) && seen.insert(job));
        }
        assert!(work.is_finished());
        assert_eq!((seen.len(), work.rounds()), (200, 1));
    }

    #[test]
    fn endless_work_begins_new_rounds() {
        let mut work = Work::new(files(3), 1);
        for job in 0..7 {
            assert_eq!(work.hand_out(0, true).map(|(job, _)| job), Some(job));
            work.done(0, job);
        }
        assert!(!work.is_finished());
        assert_eq!((work.rounds(), work.path(7)), (3, Path::new("1")));
        assert!(work.hand_out(0, false).is_some() && work.hand_out(0, false).is_some());
        assert!(work.hand_out(0, false).is_none());
    }
}
