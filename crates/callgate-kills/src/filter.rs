//! A system call filter that makes this kernel look like an old one, or a refusing one.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, sock_filter, sock_fprog,
};

use crate::server::REFUSED_GROUP;

/// Which argument decides: whether it is a value, or has a bit.
enum When {
    Always,
    Is(u32, u32),
    Has(u32, u32),
}

struct Rule(libc::c_long, When, i32);

/// `libc` has no name for it on each architecture.
const CACHESTAT: libc::c_long = 451;

/// What a server and a client have to do without in an old kernel, or under a strict filter.
fn old() -> Vec<Rule> {
    vec![
        Rule(libc::SYS_memfd_create, When::Has(1, libc::MFD_NOEXEC_SEAL), libc::EINVAL),
        Rule(
            libc::SYS_madvise,
            When::Is(2, libc::MADV_POPULATE_WRITE.cast_unsigned()),
            libc::EINVAL,
        ),
        Rule(libc::SYS_getsockopt, When::Is(2, 77), libc::ENOPROTOOPT),
        Rule(CACHESTAT, When::Always, libc::ENOSYS),
        Rule(libc::SYS_futex_waitv, When::Always, libc::ENOSYS),
        Rule(libc::SYS_epoll_pwait2, When::Always, libc::ENOSYS),
        Rule(libc::SYS_membarrier, When::Always, libc::EPERM),
        Rule(libc::SYS_inotify_init1, When::Always, libc::EMFILE),
    ]
}

/// What fails for a server that begins.
fn broken() -> Vec<Rule> {
    vec![
        Rule(libc::SYS_fchownat, When::Is(3, REFUSED_GROUP), libc::EPERM),
        Rule(libc::SYS_renameat2, When::Always, libc::EINVAL),
    ]
}

/// Makes this process see an old kernel, for the rest of its life.
pub fn become_old() {
    install(&old());
}

/// Makes a server's beginning fail, for the rest of its life.
pub fn become_broken() {
    install(&broken());
}

fn install(rules: &[Rule]) {
    let statement =
        |code: u32, k: u32, jt: u8, jf: u8| sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| statement(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let end = |k| statement(BPF_RET | BPF_K, k, 0, 0);
    let mut program = vec![load(0)];
    for Rule(call, when, error) in rules {
        let fail = end(SECCOMP_RET_ERRNO | error.cast_unsigned());
        let call = u32::try_from(*call).expect("a number");
        let equals = |value, jf| statement(BPF_JMP | BPF_JEQ | BPF_K, value, 0, jf);
        // The low half of an argument; little-endian.
        let argument = |at: u32| load(16 + 8 * at);
        match *when {
            When::Always => program.extend([equals(call, 1), fail]),
            When::Is(at, value) => {
                program.extend([equals(call, 4), argument(at), equals(value, 1), fail, load(0)]);
            }
            When::Has(at, bit) => {
                let has = statement(BPF_JMP | BPF_JSET | BPF_K, bit, 0, 1);
                program.extend([equals(call, 4), argument(at), has, fail, load(0)]);
            }
        }
    }
    program.push(end(SECCOMP_RET_ALLOW));
    let len = u16::try_from(program.len()).expect("short");
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the program lives during the call, which copies it; no other memory is passed.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(done, "a system call filter: {}", std::io::Error::last_os_error());
}
