//! Sections: making, passing, and the checks of rule "believe nothing".

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::sync::Arc;

use callgate_points::at;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, NTSTATUS};
use windows_sys::Win32::Storage::FileSystem::DELETE;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, PAGE_READWRITE, SEC_COMMIT, SECTION_MAP_READ, SECTION_QUERY,
};
use windows_sys::Win32::System::Threading::EVENT_MODIFY_STATE;

use super::release::{ReleaseId, Releases};
use crate::shm::Rejected;
use crate::sync::Mutex;
use crate::win::{Event, Kind, Security, give, granted, kind, narrow, own, value};

/// What a reader of payload memory gets, and nothing else: to map it for reading, and to ask what it is.
pub(crate) const READER_RIGHTS: u32 = SECTION_MAP_READ | SECTION_QUERY;

/// What a server's handle in its client's table has until the client takes it: the same, and a mark. To delete means nothing
/// for a section without a name, and no call gives a program a section with just these rights.
pub(crate) const GIVEN_RIGHTS: u32 = READER_RIGHTS | DELETE;

/// A section made here. It tells when it is gone: when nobody in this process has it any more.
#[derive(Debug)]
pub(super) struct Section {
    handle: OwnedHandle,
    watch: Mutex<Option<(Arc<Releases>, ReleaseId)>>,
}

impl Section {
    /// Makes `len` bytes of zeros, all of them committed: the page file has room for each, so touching one never fails.
    /// Nobody gets more rights to it than a handle has that was passed on.
    pub(super) fn create(len: usize) -> io::Result<Arc<Section>> {
        let size = u64::try_from(len).ok().filter(|&size| size > 0 && i64::try_from(size).is_ok());
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        let security = Security::nobody()?;
        let attributes = security.attributes();
        // SAFETY: the attributes live for the call; there is no file and no name.
        let handle = own(at!("sys.shm.create_section", unsafe {
            CreateFileMappingW(
                INVALID_HANDLE_VALUE,
                &raw const attributes,
                PAGE_READWRITE | SEC_COMMIT,
                (size >> 32) as u32,
                size as u32,
                std::ptr::null(),
            )
        }))?;
        Ok(Arc::new(Section { handle, watch: Mutex::new(None) }))
    }

    pub(super) fn raw(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        if let Some((releases, id)) = self.watch.lock().take() {
            releases.gone(id);
        }
    }
}

/// Memory on its way to a peer or from one; nothing is known of what came from a peer.
///
/// Control memory has an event with it, by which its maker is woken.
#[derive(Clone, Debug)]
pub struct MemFd(Origin);

#[derive(Clone, Debug)]
enum Origin {
    Here { section: Arc<Section>, bell: Option<Arc<Event>> },
    Peer { section: Option<Arc<OwnedHandle>>, bell: Option<Arc<OwnedHandle>> },
}

impl MemFd {
    pub(super) fn new(section: &Arc<Section>, bell: Option<&Arc<Event>>) -> MemFd {
        MemFd(Origin::Here { section: section.clone(), bell: bell.cloned() })
    }

    /// What a peer's message named: nothing, where it named no handle that there is.
    pub(crate) fn from_peer(section: Option<OwnedHandle>, bell: Option<OwnedHandle>) -> MemFd {
        MemFd(Origin::Peer { section: section.map(Arc::new), bell: bell.map(Arc::new) })
    }

    fn section(&self) -> Option<HANDLE> {
        match &self.0 {
            Origin::Here { section, .. } => Some(section.raw()),
            Origin::Peer { section, .. } => section.as_ref().map(|handle| handle.as_raw_handle()),
        }
    }

    /// The numbers of section and event in this process, for a peer who takes them from here; 0 where there is none.
    pub(crate) fn numbers(&self) -> (u32, u32) {
        let bell = match &self.0 {
            Origin::Here { bell, .. } => bell.as_ref().map(|bell| bell.raw()),
            Origin::Peer { bell, .. } => bell.as_ref().map(|handle| handle.as_raw_handle()),
        };
        (self.section().map_or(0, value), bell.map_or(0, value))
    }

    /// Puts a handle for reading into a peer's table; gives its number there.
    pub(crate) fn give_to(&self, process: &OwnedHandle) -> io::Result<u32> {
        let section = self.section().ok_or(io::ErrorKind::InvalidInput)?;
        give(process, section, GIVEN_RIGHTS)
    }

    /// Takes the event, for ringing and nothing else; `None` where there is none that can be rung.
    pub(super) fn bell(&self) -> Option<Arc<Event>> {
        match &self.0 {
            Origin::Here { bell, .. } => bell.clone(),
            Origin::Peer { bell, .. } => {
                let bell = bell.as_ref()?;
                let rights = EVENT_MODIFY_STATE;
                if kind(bell.as_raw_handle()) != Kind::Event
                    || granted(bell.as_raw_handle()) & rights == 0
                {
                    return None;
                }
                let narrowed = narrow(bell.try_clone().ok()?, rights).ok()?;
                Some(Arc::new(Event::from_peer(narrowed)))
            }
        }
    }

    /// Notes who is to be told when it is gone; false where somebody is already.
    pub(super) fn watch(&self, releases: &Arc<Releases>, id: ReleaseId) -> bool {
        let Origin::Here { section, .. } = &self.0 else { return false };
        let mut watch = section.watch.lock();
        let fresh = watch.is_none();
        if fresh {
            *watch = Some((releases.clone(), id));
        }
        fresh
    }

    /// Checks that it is memory of exactly `len` bytes in the page file, all committed, with these rights; gives it.
    ///
    /// Then its size is fixed, each page of it can be touched, and no file is behind it whose server could keep us waiting.
    pub(super) fn check(&self, len: usize, rights: u32) -> Result<HANDLE, Rejected> {
        let section = self.section().ok_or(Rejected::NotASection)?;
        if kind(section) != Kind::Section {
            return Err(Rejected::NotASection);
        }
        let has = granted(section);
        if has & SECTION_QUERY == 0 || has & rights & SECTION_MAP_READ == 0 {
            return Err(Rejected::NotReadable);
        }
        if has & rights != rights {
            return Err(Rejected::NotWritable);
        }
        let basic = query(section)?;
        if basic.attributes & KINDS != SEC_COMMIT {
            return Err(Rejected::NotPlainMemory { attributes: basic.attributes });
        }
        let (have, want) = (basic.size as u64, len as u64);
        if have != want || want == 0 {
            return Err(Rejected::Size { have, want });
        }
        Ok(section)
    }
}

/// All attributes that say what kind of section it is: file, image, reserved, not cached, large pages, and the like.
const KINDS: u32 = 0xffff_0000;

/// `SECTION_BASIC_INFORMATION`.
#[repr(C)]
struct Basic {
    base: usize,
    attributes: u32,
    size: i64,
}

fn query(section: HANDLE) -> Result<Basic, Rejected> {
    #[link(name = "ntdll", kind = "raw-dylib")]
    unsafe extern "system" {
        fn NtQuerySection(
            section: HANDLE,
            class: i32,
            information: *mut Basic,
            len: usize,
            returned: *mut usize,
        ) -> NTSTATUS;
    }
    const BASIC: i32 = 0;
    let mut basic = Basic { base: 0, attributes: 0, size: 0 };
    // SAFETY: at most the size given is written to a live local of integers.
    let status = at!("sys.shm.query_section", unsafe {
        NtQuerySection(section, BASIC, &raw mut basic, size_of::<Basic>(), std::ptr::null_mut())
    });
    if status < 0 {
        let source = io::Error::other(format!("status {status:#x}"));
        return Err(Rejected::Os { call: "NtQuerySection", source });
    }
    Ok(basic)
}
