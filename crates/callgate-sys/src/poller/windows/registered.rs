//! A wait for any object that a thread of the system's does, and tells a port.

use std::ffi::c_void;
use std::io;
use std::sync::Arc;

use callgate_points::at;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEONLYONCE,
};

use super::Port;
use crate::win::ok;

/// One wait: when the object is signalled the key is put into the port, once.
#[derive(Debug)]
pub(crate) struct RegisteredWait {
    wait: HANDLE,
    told: *mut Told,
}

#[derive(Debug)]
struct Told {
    port: Arc<Port>,
    key: u64,
}

// SAFETY: the handle belongs to no thread; what is told is on the heap, and only read while the wait is registered.
unsafe impl Send for RegisteredWait {}
// SAFETY: no method changes anything through `&self`.
unsafe impl Sync for RegisteredWait {}

impl RegisteredWait {
    /// Begins to wait for `object`.
    ///
    /// # Safety
    ///
    /// * `object` is open, and stays so until the result is dropped.
    pub(crate) unsafe fn new(
        object: HANDLE,
        port: &Arc<Port>,
        key: u64,
    ) -> io::Result<RegisteredWait> {
        let told = Box::into_raw(Box::new(Told { port: port.clone(), key }));
        let mut wait = std::ptr::null_mut();
        // Told by a thread of the pool, not by the one that waits (WT_EXECUTEINWAITTHREAD): under Wine 8 that one counts the
        // callback before it takes the pool's lock, and who unregisters the wait in between takes it out of a list in which
        // it is not. Rarely that ended the process, where servers began and ended all the time.
        // SAFETY: the object is open, as the caller promises; what is told stays until the wait is unregistered, with no
        // callback running any more.
        let registered = ok(at!("sys.poller.register", unsafe {
            RegisterWaitForSingleObject(
                &raw mut wait,
                object,
                Some(tell),
                told.cast(),
                INFINITE,
                WT_EXECUTEONLYONCE,
            )
        }));
        if let Err(error) = registered {
            // SAFETY: from `into_raw` just now, and nobody has it.
            drop(unsafe { Box::from_raw(told) });
            return Err(error);
        }
        Ok(RegisteredWait { wait, told })
    }
}

unsafe extern "system" fn tell(told: *mut c_void, _timed_out: bool) {
    // SAFETY: what `new` gave; it is freed only after this has returned.
    let told = unsafe { &*told.cast::<Told>() };
    told.port.post(told.key);
}

impl Drop for RegisteredWait {
    fn drop(&mut self) {
        // Waits for a callback that runs just now: it only puts a key into a queue.
        // SAFETY: registered in `new`, and unregistered only here.
        at!("sys.poller.unregister", unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) });
        // SAFETY: from `into_raw` in `new`; no callback runs any more.
        drop(unsafe { Box::from_raw(self.told) });
    }
}
