//! The write of a pipe's end that is under way, and the handle that it tells of.

use std::io;
use std::os::windows::io::OwnedHandle;
use std::sync::Arc;

use super::frame::Frame;
use super::pipe::State;
use crate::socket::SendError;
use crate::win::{Progress, is_pipe_gone, was_aborted};

/// A message on its way out.
#[derive(Default)]
pub(super) struct Writing {
    len: usize,
    /// What a server has put into its client's table, of which the message tells.
    given: Option<Given>,
}

/// A handle in a client's table.
pub(super) struct Given {
    pub(super) process: Arc<OwnedHandle>,
    pub(super) number: u32,
}

impl Given {
    /// The client was not told, and will not be.
    fn take_back(self) {
        crate::win::close_in(&self.process, self.number);
    }
}

impl State {
    /// Whether a message can be written now.
    pub(super) fn may_write(&mut self) -> Result<(), SendError> {
        let Some(handle) = &self.handle else { return Err(SendError::Closed) };
        if !self.write.is_under_way() {
            return Ok(());
        }
        let progress = self.write.look(handle);
        self.written(progress)
    }

    pub(super) fn write(&mut self, frame: &Frame, given: Option<Given>) -> Result<(), SendError> {
        let bytes = frame.bytes();
        self.writing = Writing { len: bytes.len(), given };
        let Some(handle) = &self.handle else {
            self.not_written();
            return Err(SendError::Closed);
        };
        self.write.buffer()[..bytes.len()].copy_from_slice(bytes);
        let progress = self.write.write(handle, bytes.len());
        match self.written(progress) {
            // The kernel has it, and the peer will get it.
            Err(SendError::Full) => Ok(()),
            result => result,
        }
    }

    /// Learns how far the write is; *full* while it is under way.
    fn written(&mut self, mut progress: Progress) -> Result<(), SendError> {
        // The thread that began it has ended, and nobody got the message: another one writes it again. (On Windows what is
        // under way on a pipe that is bound to a port outlives its thread; under Wine it does not.)
        while let (Progress::Failed(error), Some(handle)) = (&progress, &self.handle)
            && was_aborted(error)
        {
            progress = self.write.write(handle, self.writing.len);
        }
        match progress {
            Progress::Pending => Err(SendError::Full),
            Progress::Done { .. } => {
                self.writing = Writing::default();
                Ok(())
            }
            Progress::Failed(error) => {
                self.not_written();
                Err(failed(error))
            }
        }
    }

    pub(super) fn not_written(&mut self) {
        if let Some(given) = std::mem::take(&mut self.writing).given {
            given.take_back();
        }
    }

    /// Tells the client of the sections that were looked for. One that does not read keeps them.
    pub(super) fn tell_what_was_taken(&mut self) -> Result<(), SendError> {
        let count = self.passing.taken;
        if count == 0 {
            return Ok(());
        }
        match self.may_write().and_then(|()| self.write(&Frame::taken(count), None)) {
            Ok(()) => {
                self.passing.taken = 0;
                Ok(())
            }
            Err(SendError::Full) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn failed(error: io::Error) -> SendError {
    if is_pipe_gone(&error) { SendError::Closed } else { SendError::Os(error) }
}
