//! Where one caller at a time finds its connection, without a lock that others wait for, and without counting itself among
//! the connection's users. Who finds the lane taken goes the common way.

use std::ops::Deref;

use callgate_proto::life::Kept;
use callgate_sys::sync::{TryGuard, TryLock};

use super::connection::{Connection, Shared};

/// One for each client.
#[derive(Default)]
pub(super) struct Lane {
    kept: TryLock<Option<Shared>>,
    /// The address of what is kept. Written by who has the lane.
    told: Kept,
}

fn number(connection: &Connection) -> u64 {
    std::ptr::from_ref(connection).addr() as u64
}

/// The right to use the lane.
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
            if on_lane.kept.as_ref().is_some_and(|kept| std::ptr::eq(&**kept, ended)) {
                on_lane.clear();
            }
            return true;
        }
        !self.told.may_be(number(ended))
    }
}

impl OnLane<'_> {
    /// Keeps a connection for this call and the next ones.
    pub(super) fn keep(&mut self, connection: Shared) -> &Shared {
        self.lane.told.say(number(&connection));
        self.kept.insert(connection)
    }

    /// Keeps none.
    pub(super) fn clear(&mut self) {
        *self.kept = None;
        self.lane.told.say(0);
    }
}

impl Deref for OnLane<'_> {
    type Target = Option<Shared>;

    #[inline]
    fn deref(&self) -> &Option<Shared> {
        &self.kept
    }
}
