//! One overlapped operation at a time, with a buffer that outlives it.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};

use callgate_points::at;
use windows_sys::Win32::Foundation::{
    ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, ERROR_MORE_DATA, ERROR_PIPE_CONNECTED, GetLastError,
};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::ConnectNamedPipe;

use super::Event;

/// How far an operation is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The kernel has it, and the buffer.
    Pending,
    /// It is done, with so many bytes; `more`: the message was longer.
    Done { len: usize, more: bool },
    /// It failed.
    Failed(io::Error),
}

/// What the kernel writes to while an operation is under way. On the heap, where it stays.
struct Place<const N: usize> {
    overlapped: OVERLAPPED,
    buffer: [u8; N],
}

/// Room for one operation. While one is under way the place belongs to the kernel: whoever has the handle must call
/// [`Operation::cancel`] before either goes.
pub(crate) struct Operation<const N: usize> {
    place: *mut Place<N>,
    event: Event,
    under_way: bool,
}

// SAFETY: the place is on the heap and owned; which thread begins or ends an operation makes no difference.
unsafe impl<const N: usize> Send for Operation<N> {}

impl<const N: usize> Operation<N> {
    pub(crate) fn new() -> io::Result<Self> {
        let place = Place { overlapped: OVERLAPPED::default(), buffer: [0; N] };
        let event = Event::manual()?;
        Ok(Self { place: Box::into_raw(Box::new(place)), event, under_way: false })
    }

    /// What is set when the operation under way has ended.
    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// The buffer, while nothing is under way.
    pub(crate) fn buffer(&mut self) -> &mut [u8; N] {
        assert!(!self.under_way, "the kernel has the buffer");
        // SAFETY: nothing is under way, so nobody else has the place; `&mut self` makes it exclusive.
        unsafe { &mut (*self.place).buffer }
    }

    /// Begins to read a message. `handle` must be open until the operation has ended.
    pub(crate) fn read(&mut self, handle: &OwnedHandle) -> Progress {
        let (overlapped, buffer) = self.begin(false);
        // SAFETY: buffer and overlapped are on the heap, and nobody else touches them until the operation has ended:
        // `under_way` says so.
        let result = at!("sys.win.read", unsafe {
            ReadFile(handle.as_raw_handle(), buffer, N as u32, std::ptr::null_mut(), overlapped)
        });
        self.begun(handle, result)
    }

    /// Begins to write the first `len` bytes of the buffer as a message. No completion port is told of its end.
    pub(crate) fn write(&mut self, handle: &OwnedHandle, len: usize) -> Progress {
        assert!(len <= N, "fits the buffer");
        let (overlapped, buffer) = self.begin(true);
        // SAFETY: as in `read`.
        let result = at!("sys.win.write", unsafe {
            WriteFile(handle.as_raw_handle(), buffer, len as u32, std::ptr::null_mut(), overlapped)
        });
        self.begun(handle, result)
    }

    /// Begins to wait for a client of a pipe.
    pub(crate) fn connect(&mut self, handle: &OwnedHandle) -> Progress {
        let (overlapped, _) = self.begin(false);
        // SAFETY: as in `read`.
        let result = at!("sys.win.connect_pipe", unsafe {
            ConnectNamedPipe(handle.as_raw_handle(), overlapped)
        });
        self.begun(handle, result)
    }

    fn begin(&mut self, silent: bool) -> (*mut OVERLAPPED, *mut u8) {
        assert!(!self.under_way, "one at a time");
        // The lowest bit of the event keeps a completion port from being told.
        let event = self.event.raw().map_addr(|at| at | usize::from(silent));
        // SAFETY: nothing is under way, so nobody else has the place.
        unsafe {
            (*self.place).overlapped = OVERLAPPED { hEvent: event, ..OVERLAPPED::default() };
            (&raw mut (*self.place).overlapped, (&raw mut (*self.place).buffer).cast())
        }
    }

    fn begun(&mut self, handle: &OwnedHandle, result: windows_sys::core::BOOL) -> Progress {
        if result == 0 {
            // SAFETY: it has no conditions.
            match unsafe { GetLastError() } {
                ERROR_IO_PENDING => {}
                ERROR_PIPE_CONNECTED => return Progress::Done { len: 0, more: false },
                // The message was longer, and is there: the length is asked for below.
                ERROR_MORE_DATA => {}
                code => return Progress::Failed(io::Error::from_raw_os_error(code as i32)),
            }
        }
        self.under_way = true;
        self.look(handle)
    }

    /// Looks how far the operation under way is.
    pub(crate) fn look(&mut self, handle: &OwnedHandle) -> Progress {
        assert!(self.under_way, "something is under way");
        let mut len = 0;
        // SAFETY: the overlapped is on the heap and belongs to an operation on this handle; the length is a live local.
        let result = unsafe {
            let overlapped = &raw const (*self.place).overlapped;
            GetOverlappedResult(handle.as_raw_handle(), overlapped, &raw mut len, 0)
        };
        let len = (len as usize).min(N);
        if result != 0 {
            self.under_way = false;
            return Progress::Done { len, more: false };
        }
        // SAFETY: it has no conditions.
        match unsafe { GetLastError() } {
            ERROR_IO_INCOMPLETE => Progress::Pending,
            ERROR_MORE_DATA => {
                self.under_way = false;
                Progress::Done { len, more: true }
            }
            code => {
                self.under_way = false;
                Progress::Failed(io::Error::from_raw_os_error(code as i32))
            }
        }
    }

    /// Ends what is under way, and waits until the kernel has let go of the buffer: no longer than it takes to cancel. Tells
    /// how it ended, which may be well.
    pub(crate) fn cancel(&mut self, handle: &OwnedHandle) -> Option<Progress> {
        let mut ended = None;
        while self.under_way {
            // SAFETY: the handle is open, and the overlapped is that of an operation on it.
            at!("sys.win.cancel", unsafe {
                CancelIoEx(handle.as_raw_handle(), &raw const (*self.place).overlapped)
            });
            self.event.wait(None);
            ended = Some(self.look(handle));
        }
        ended
    }
}

impl<const N: usize> Drop for Operation<N> {
    fn drop(&mut self) {
        if self.under_way {
            // Never seen; a leak is better than a kernel that writes to what is somebody else's by then.
            return;
        }
        // SAFETY: from `into_raw` in `new`; nothing is under way, so the kernel does not have it.
        drop(unsafe { Box::from_raw(self.place) });
    }
}
