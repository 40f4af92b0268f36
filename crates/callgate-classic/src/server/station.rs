//! The objects that a server holds, in the order in which they are made, and what it does with them for one request.

use std::time::Duration;

use crate::Plain;
use crate::answer::{Care, Looks, Verdict, verdict};
use crate::client::{check_kind, check_size, security};
use crate::error::{ObjectError, ServeError};
use crate::names::{Names, Object};
use crate::options::{Existing, ServerOptions};
use crate::system::{Any, Event, Fault, Mutex, Section, Security, Woken, wait};

/// How long to wait for the server's mutex: clients that look after a server that has ended have it for moments.
const OWNER_WAIT: Duration = Duration::from_millis(500);

/// The objects of a server, and its copies of the memory. Belongs to the thread that made it, as `owner` does.
///
/// Fields are dropped from the top: the memory goes first, so that nobody finds it without a server, and the mutex
/// last.
pub(super) struct Station<T: ?Sized> {
    section: Section,
    done: Event,
    exec: Event,
    free: Option<Mutex>,
    _owner: Owner,
    names: Names,
    adopted: bool,
    /// What was in the memory when the request was taken.
    request: Box<T>,
    /// The handler's.
    data: Box<T>,
}

/// The server's mutex, owned by this thread.
struct Owner(Mutex);

impl Drop for Owner {
    fn drop(&mut self) {
        let released = self.0.release();
        debug_assert!(released.is_ok(), "owned by this thread: {released:?}");
    }
}

impl<T: Plain + ?Sized> Station<T> {
    /// Makes the objects, or takes over those that are there. The copies say how large the memory is.
    pub(super) fn open(
        names: &Names,
        options: &ServerOptions,
        [request, data]: [Box<T>; 2],
    ) -> Result<Self, ServeError> {
        let bytes = size_of_val(&*request);
        let security = security(&options.access)?;
        let owner = own(names, &security)?;
        let failed = |object| move |fault: Fault| fault.of(object, names);
        let section = match Section::open(names.of(Object::Memory)) {
            Ok(section) => Some(section),
            Err(Fault::NotFound) => None,
            Err(fault) => return Err(failed(Object::Memory)(fault).into()),
        };
        let check = |section: &Section| match options.existing {
            Existing::Adopt => Ok(check_size(section, names, bytes, options.accept_larger)?),
            Existing::Refuse => {
                Err(ServeError::Exists { name: names.of(Object::Memory).to_owned() })
            }
        };
        section.as_ref().map(check).transpose()?;
        let exec = event(Object::Exec, names, &security)?;
        let done = event(Object::Done, names, &security)?;
        let free = if options.watch_free {
            let free = Mutex::create(names.of(Object::Free), &security);
            Some(free.map_err(failed(Object::Free))?)
        } else {
            None
        };
        // What a dead server's clients left: nobody waits for it, or not for long.
        for (event, object) in [(&exec, Object::Exec), (&done, Object::Done)] {
            wait(&[Any::Event(event)], Duration::ZERO).map_err(failed(object))?;
        }
        let (section, adopted) = match section {
            Some(section) => (section, true),
            None => {
                let made = Section::create(names.of(Object::Memory), bytes, &security);
                let (section, existed) = made.map_err(failed(Object::Memory))?;
                if existed {
                    // Somebody was faster.
                    check(&section)?;
                }
                (section, existed)
            }
        };
        let names = names.clone();
        Ok(Self { section, done, exec, free, _owner: owner, names, adopted, request, data })
    }

    pub(super) fn adopted(&self) -> bool {
        self.adopted
    }

    pub(super) fn exec(&self) -> &Event {
        &self.exec
    }

    /// Names the object of a wait that failed.
    pub(super) fn fault(&self, fault: Fault) -> ObjectError {
        fault.of(Object::Exec, &self.names)
    }

    /// Tells whether anybody waits for the request whose Exec was taken.
    pub(super) fn wanted(&mut self, care: Care) -> Result<bool, ObjectError> {
        Ok(!care.watch_free || self.in_exchange()?)
    }

    /// Copies the request out of the memory, for the handler.
    pub(super) fn take(&mut self) -> &mut T {
        self.section.read(self.request.as_mut_bytes());
        self.data.as_mut_bytes().copy_from_slice(self.request.as_bytes());
        &mut self.data
    }

    /// Publishes what the handler has made of the request, if somebody waits for it. Tells whether it did, and whether
    /// another request's Exec was taken meanwhile.
    pub(super) fn answer(
        &mut self,
        care: Care,
        took: Duration,
    ) -> Result<(bool, bool), ObjectError> {
        match verdict(self, care, took)? {
            Verdict::Publish => {
                self.section.write(self.data.as_bytes());
                self.done.set().map_err(|fault| fault.of(Object::Done, &self.names))?;
                Ok((true, false))
            }
            Verdict::Drop => Ok((false, false)),
            Verdict::DropAndHandle => Ok((false, true)),
        }
    }

    fn is_set(&self, event: &Event, object: Object) -> Result<bool, ObjectError> {
        let woken = wait(&[Any::Event(event)], Duration::ZERO);
        Ok(woken.map_err(|fault| fault.of(object, &self.names))? != Woken::TimedOut)
    }
}

impl<T: Plain + ?Sized> Looks for Station<T> {
    type Error = ObjectError;

    fn in_exchange(&mut self) -> Result<bool, ObjectError> {
        let Some(free) = &self.free else { return Ok(true) };
        let failed = |fault: Fault| fault.of(Object::Free, &self.names);
        if wait(&[Any::Mutex(free)], Duration::ZERO).map_err(failed)? == Woken::TimedOut {
            return Ok(true);
        }
        // Ours for a moment: nobody is in an exchange, so nobody waits for what these say.
        let left = self
            .is_set(&self.exec, Object::Exec)
            .and_then(|_| self.is_set(&self.done, Object::Done));
        free.release().map_err(failed)?;
        left?;
        Ok(false)
    }

    fn exec_again(&mut self) -> Result<bool, ObjectError> {
        self.is_set(&self.exec, Object::Exec)
    }

    fn unchanged(&mut self) -> bool {
        self.section.holds(self.request.as_bytes())
    }
}

/// Takes the server's mutex; abandoned means that the last owner died.
fn own(names: &Names, security: &Security) -> Result<Owner, ServeError> {
    let failed = |fault: Fault| fault.of(Object::Owner, names);
    let owner = Mutex::create(names.of(Object::Owner), security).map_err(failed)?;
    match wait(&[Any::Mutex(&owner)], OWNER_WAIT).map_err(failed)? {
        Woken::Object(_) | Woken::Abandoned(_) => Ok(Owner(owner)),
        Woken::TimedOut => Err(ServeError::AlreadyServed {
            memory: names.of(Object::Memory).to_owned(),
            owner: names.of(Object::Owner).to_owned(),
        }),
    }
}

fn event(object: Object, names: &Names, security: &Security) -> Result<Event, ObjectError> {
    let event = Event::create(names.of(object), security);
    let event = event.map_err(|fault| fault.of(object, names))?;
    check_kind(&event, object, names)?;
    Ok(event)
}
