//! Decoders under bytes that nobody meant for them: random ones, and good files and messages with a few things changed.
//! None may panic, hang, or take more memory than a stated multiple of what it was given.
//!
//! `PROPTEST_CASES` says how many of each kind every decoder gets (500 by default), `PROPTEST_RNG_SEED` which.
#![allow(unsafe_code)] // an allocator that counts cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Counts what each thread holds, and the most it has held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counts left; nothing is measured on it.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// No decoder of ours has use for so much at once: better no memory for it than none for the machine.
const TOO_MUCH: usize = 1 << 30;

// SAFETY: every call is handed on to the system's allocator as it came, or refused with null, which is allowed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > TOO_MUCH {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > TOO_MUCH {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > TOO_MUCH {
            return std::ptr::null_mut();
        }
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Bytes that `f` held at most, beyond what was held before.
fn peak(f: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    f();
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

/// A change to good bytes; places are shares of the length.
#[derive(Clone, Debug)]
enum Change {
    Flip(f64, u8),
    Set(f64, u8),
    /// Eight bytes that could be a length, in either order.
    Number(f64, u64, bool),
    Cut(f64),
    Remove(f64, usize),
    Insert(f64, Vec<u8>),
    /// A stretch once more, somewhere else.
    Repeat(f64, usize, f64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = 0.0..1.0;
    let lengths = prop_oneof![
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(u64::from(u32::MAX)),
        Just(1 << 31),
        Just(1 << 40),
        Just(0),
        any::<u64>(),
    ];
    let change = prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at.clone(), lengths, any::<bool>()).prop_map(|(at, n, big)| Change::Number(at, n, big)),
        at.clone().prop_map(Change::Cut),
        (at.clone(), 1..40usize).prop_map(|(at, n)| Change::Remove(at, n)),
        (at.clone(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at.clone(), 1..200usize, at).prop_map(|(from, n, to)| Change::Repeat(from, n, to)),
    ];
    vec(change, 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        let place = |at: f64| (at * length as f64) as usize;
        match change {
            Change::Flip(at, bits) => bytes.get_mut(place(at)).into_iter().for_each(|byte| *byte ^= bits),
            Change::Set(at, new) => bytes.get_mut(place(at)).into_iter().for_each(|byte| *byte = new),
            Change::Number(at, number, big) => {
                let number = if big { number.to_be_bytes() } else { number.to_le_bytes() };
                let there = bytes.iter_mut().skip(place(at));
                there.zip(number).for_each(|(byte, new)| *byte = new);
            }
            Change::Cut(at) => bytes.truncate(place(at)),
            Change::Remove(at, n) => drop(bytes.drain(place(at)..(place(at) + n).min(length))),
            Change::Insert(at, new) => drop(bytes.splice(place(at)..place(at), new)),
            Change::Repeat(from, n, to) => {
                let stretch = bytes[place(from)..(place(from) + n).min(length)].to_vec();
                drop(bytes.splice(place(to)..place(to), stretch));
            }
        }
    }
    bytes
}

/// What memory a decoder may take.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// Whatever it is given.
    pub(crate) base: usize,
    /// For each byte that it is given.
    pub(crate) each: usize,
}

/// Gives `decode` random bytes, and each of `good` with changes.
pub(crate) fn abuse(good: &[Vec<u8>], bound: Bound, decode: impl Fn(&[u8])) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500);
    let mut config =
        Config { cases, failure_persistence: None, max_shrink_time: 60_000, ..Config::default() };
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1); // the same in each build; others are asked for
    }
    let check = |bytes: Vec<u8>| {
        let began = Instant::now();
        let held = peak(|| decode(&bytes));
        let allowed = bound.base + bound.each * bytes.len();
        prop_assert!(held <= allowed, "{held} bytes for {}; {allowed} are allowed", bytes.len());
        prop_assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?} for {} bytes",
            began.elapsed(),
            bytes.len()
        );
        Ok(())
    };
    let random = vec(any::<u8>(), 0..2000);
    TestRunner::new(config.clone()).run(&random, check).unwrap();
    for good in good {
        check(good.clone()).unwrap();
        let strategy = changes().prop_map(|changes| changed(good.clone(), changes));
        TestRunner::new(config.clone()).run(&strategy, check).unwrap();
    }
}
