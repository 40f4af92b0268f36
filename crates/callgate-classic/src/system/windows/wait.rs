//! Waiting for one of several objects.

use std::io;
use std::time::Duration;

use windows_sys::Win32::Foundation::{WAIT_ABANDONED_0, WAIT_FAILED, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::System::Threading::WaitForMultipleObjects;

use crate::system::{Any, Fault, Woken};

/// Most objects that one wait takes.
const OBJECTS_MAX: usize = 64;
/// The longest wait that is not for ever: 49 days.
const WAIT_MS_MAX: u32 = u32::MAX - 1;

/// Waits for the first of them that is ready, and takes it. Limits are rounded up to a millisecond.
///
/// # Panics
/// If there are none, or more than 64.
pub(crate) fn wait(objects: &[Any<'_>], limit: Duration) -> Result<Woken, Fault> {
    assert!((1..=OBJECTS_MAX).contains(&objects.len()));
    let mut handles = [std::ptr::null_mut(); OBJECTS_MAX];
    for (handle, object) in handles.iter_mut().zip(objects) {
        *handle = match object {
            Any::Event(event) => event.handle(),
            Any::Mutex(mutex) => mutex.handle(),
        };
    }
    let count = objects.len() as u32;
    let limit_ms = limit.as_nanos().div_ceil(1_000_000);
    let limit_ms = u32::try_from(limit_ms).map_or(WAIT_MS_MAX, |ms| ms.min(WAIT_MS_MAX));
    // SAFETY: `count` handles, each open while `objects` is borrowed, and one object never twice in this crate.
    let woken = unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, limit_ms) };
    let place =
        |first: u32| (first..first + count).contains(&woken).then(|| (woken - first) as usize);
    if let Some(place) = place(WAIT_OBJECT_0) {
        Ok(Woken::Object(place))
    } else if let Some(place) = place(WAIT_ABANDONED_0) {
        Ok(Woken::Abandoned(place))
    } else if woken == WAIT_TIMEOUT {
        Ok(Woken::TimedOut)
    } else {
        debug_assert_eq!(woken, WAIT_FAILED);
        Err(Fault::Os("WaitForMultipleObjects", io::Error::last_os_error()))
    }
}
