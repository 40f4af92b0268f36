//! Where one caller at a time finds its connection, without a lock that others wait for, and without counting itself among
//! the connection's users. Who finds the lane taken goes the common way.

use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering, fence};

use callgate_sys::sync::{TryGuard, TryLock};

use super::connection::{Connection, Shared};

/// One for each client.
#[derive(Default)]
pub(super) struct Lane {
    kept: TryLock<Option<Shared>>,
    /// What is kept, to be compared only. Written by who has the lane.
    keeps: AtomicPtr<Connection>,
}

/// The right to use the lane. The connection in it is let go of by [`OnLane::clear`], or when it ends.
pub(super) struct OnLane<'a> {
    lane: &'a Lane,
    kept: TryGuard<'a, Option<Shared>>,
}

impl Lane {
    /// Takes the lane if it is free.
    #[inline]
    pub(super) fn try_enter(&self) -> Option<OnLane<'_>> {
        self.kept.try_lock().map(|kept| OnLane { lane: self, kept })
    }

    /// Lets go of a connection that has ended. False when a caller keeps it at this moment, who may have looked for the end
    /// just before it came: come again.
    pub(super) fn let_go(&self, ended: &Connection) -> bool {
        if let Some(mut on_lane) = self.try_enter() {
            if on_lane.kept.as_ref().is_some_and(|kept| ptr::eq(&**kept, ended)) {
                on_lane.clear();
            }
            return true;
        }
        // EDGE lane (other end: `keep`). The end was stored, then a fence, then we look at what the lane keeps; a caller says
        // what it keeps, then a fence, then it looks for the end before it leaves. So one of the two sees the other.
        fence(Ordering::SeqCst);
        !ptr::eq(self.keeps.load(Ordering::Relaxed), ended)
    }
}

impl OnLane<'_> {
    /// Keeps a connection for this call and the next ones.
    pub(super) fn keep(&mut self, connection: Shared) {
        self.lane.keeps.store(ptr::from_ref(&*connection).cast_mut(), Ordering::Relaxed);
        *self.kept = Some(connection);
        // EDGE lane (other end: `let_go`).
        fence(Ordering::SeqCst);
    }

    /// Keeps none.
    pub(super) fn clear(&mut self) {
        *self.kept = None;
        self.lane.keeps.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

impl Deref for OnLane<'_> {
    type Target = Option<Shared>;

    #[inline]
    fn deref(&self) -> &Option<Shared> {
        &self.kept
    }
}
