//! A pool of worker threads for kernels: `run` splits a loop over borrowed data among all threads.
//!
//! A decode step makes hundreds of calls of a few microseconds each, so a call allocates nothing, takes no lock
//! that could be contended, and finds its workers spinning: they park only after a while without work. The calling
//! thread takes part. A call from inside a task, or while another thread uses the pool, runs inline on its caller.
//!
//! ```
//! # use backend_cpu::kernels::pool::Pool;
//! let pool = Pool::new(2);
//! let mut squares = [0usize; 10];
//! pool.chunks_mut(&mut squares, 3, |chunk, part| {
//!     for (i, x) in part.iter_mut().enumerate() {
//!         *x = (chunk * 3 + i).pow(2);
//!     }
//! });
//! assert_eq!(squares[9], 81);
//! ```
#![allow(unsafe_code, reason = "lends borrowed closures and disjoint slices to other threads")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

use super::gemm::Isa;

/// Pauses that an idle worker makes before it parks (some 100 us).
const SPINS: u32 = 4000;

/// Low bits of [`Shared::state`]: workers inside the current job. Then one bit: the job may be joined. Then its number.
const ACTIVE: u64 = 0xffff;
const OPEN: u64 = 1 << 16;
const JOB: u64 = 1 << 17;

/// Worker threads, and the instruction set that kernels on them use.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    busy: AtomicBool,
    isa: Isa,
}

struct Worker {
    handle: Option<JoinHandle<()>>,
    thread: Thread,
    parked: Arc<AtomicBool>,
}

/// What one job runs: the function gets the number of the participant, 0 for the caller.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

#[repr(align(128))]
struct Shared {
    state: AtomicU64,
    stop: AtomicBool,
    body: UnsafeCell<Option<*const Body<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `body` is written only by the owner of `Pool::busy` while no job is open and no worker active, and read
// only by workers that joined the open job; `state` orders the two.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointee of `body` is `Sync`.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller of `run` included (0 counts as 1), with the best instruction set.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// As [`Pool::new`], with a chosen instruction set.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            body: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        // A thread that cannot be started is done without: the others do its share.
        let workers = (1..threads.min(ACTIVE as usize)).map_while(|index| Worker::start(index, &shared)).collect();
        Self { shared, workers, busy: AtomicBool::new(false), isa }
    }

    /// A pool with one thread per CPU that this process may use.
    pub fn for_machine() -> Self {
        Self::new(thread::available_parallelism().map_or(1, NonZeroUsize::get))
    }

    /// The number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set that kernels given this pool use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `task` once for each of `0..tasks`, in any order, on all threads; returns when all are done.
    ///
    /// A panic in a task reaches the caller when the other threads have finished.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.run_scratch(tasks, &mut [] as &mut [u8], |_, (), index| task(index));
    }

    /// As [`Pool::run`]; each thread gets its own equal part of `scratch` and a state that starts as the default.
    pub fn run_scratch<S: Send, T: Default>(
        &self,
        tasks: usize,
        scratch: &mut [S],
        task: impl Fn(&mut [S], &mut T, usize) + Sync,
    ) {
        let share = scratch.len() / self.threads();
        let scratch = SharedMut::new(scratch);
        let next = AtomicUsize::new(0);
        self.broadcast(tasks, &|participant| {
            // SAFETY: the participants of a job have different numbers below `threads()`.
            let scratch = unsafe { scratch.slice(participant * share, share) };
            let mut state = T::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    return;
                }
                task(scratch, &mut state, index);
            }
        });
    }

    /// Calls `task(i, part)` for each part of `chunk` elements of `data`; the last may be shorter.
    pub fn chunks_mut<T: Send>(&self, data: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let (len, chunk) = (data.len(), chunk.max(1));
        let data = SharedMut::new(data);
        self.run(len.div_ceil(chunk), |index| {
            let start = index * chunk;
            // SAFETY: `run` gives each index once, and chunks of different indices are disjoint.
            task(index, unsafe { data.slice(start, chunk.min(len - start)) });
        });
    }

    /// As [`Pool::chunks_mut`]; each thread gets its own equal part of `scratch`.
    pub fn chunks_scratch<T: Send, S: Send>(
        &self,
        data: &mut [T],
        chunk: usize,
        scratch: &mut [S],
        task: impl Fn(&mut [S], usize, &mut [T]) + Sync,
    ) {
        let (len, chunk) = (data.len(), chunk.max(1));
        let data = SharedMut::new(data);
        self.run_scratch(len.div_ceil(chunk), scratch, |scratch, (), index| {
            let start = index * chunk;
            // SAFETY: `run_scratch` gives each index once, and chunks of different indices are disjoint.
            task(scratch, index, unsafe { data.slice(start, chunk.min(len - start)) });
        });
    }

    /// Cuts each matrix of `out` into tiles of at most `tile` rows and columns and calls `task` for each one;
    /// tiles of a row of tiles come one after the other. Scratch and state as in [`Pool::run_scratch`].
    pub fn tiles<E: Send, S: Send, T: Default>(
        &self,
        out: MatMut<'_, E>,
        tile: [usize; 2],
        scratch: &mut [S],
        task: impl Fn(&mut [S], &mut T, Tile<'_, E>) + Sync,
    ) {
        let [tile_rows, tile_cols] = tile.map(|size| size.max(1));
        let (down, across) = (out.rows.div_ceil(tile_rows), out.cols.div_ceil(tile_cols));
        let data = SharedMut::new(out.data);
        let tasks = out.batch[0] * out.batch[1] * down * across;
        self.run_scratch(tasks, scratch, |scratch, state, index| {
            let (rest, col) = (index / across, index % across * tile_cols);
            let (rest, row) = (rest / down, rest % down * tile_rows);
            let batch = [rest / out.batch[1], rest % out.batch[1]];
            let tile = Tile {
                batch,
                row,
                col,
                rows: tile_rows.min(out.rows - row),
                cols: tile_cols.min(out.cols - col),
                start: batch[0] * out.batch_stride[0] + batch[1] * out.batch_stride[1] + row * out.row_stride + col,
                row_stride: out.row_stride,
                data: &data,
                one_owner: PhantomData,
            };
            task(scratch, state, tile);
        });
    }

    /// Runs `body` on the caller and on up to `tasks - 1` workers.
    fn broadcast(&self, tasks: usize, body: &Body<'_>) {
        let inline = tasks <= 1 || self.workers.is_empty() || self.busy.swap(true, Ordering::Acquire);
        if inline {
            return body(0);
        }
        let job = Job::open(self, tasks, body);
        body(0);
        drop(job);
        let panic = self.shared.panic.lock().expect("no code panics while it holds the lock").take();
        self.busy.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                // A worker catches the panics of tasks; nothing is left to report.
                let _ = handle.join();
            }
        }
    }
}

/// The caller's hold on an open job; dropping it waits for the workers, when a task panics too.
struct Job<'a>(&'a Pool);

impl<'a> Job<'a> {
    fn open(pool: &'a Pool, tasks: usize, body: &Body<'_>) -> Self {
        let shared = &*pool.shared;
        let body: *const Body<'_> = body;
        // SAFETY: only the lifetime changes. Workers call the body only between joining and leaving the job, and
        // `drop` closes the job and waits until all have left, while the caller still borrows the body.
        let body = unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body) };
        // SAFETY: this thread owns `busy`, and the previous job was closed and left by all workers.
        unsafe { *shared.body.get() = Some(body) };
        let number = shared.state.load(Ordering::Relaxed) & !(JOB - 1);
        shared.state.store(number.wrapping_add(JOB) | OPEN, Ordering::SeqCst);
        for worker in pool.workers.iter().take(tasks - 1) {
            if worker.parked.swap(false, Ordering::SeqCst) {
                worker.thread.unpark();
            }
        }
        Self(pool)
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let state = &self.0.shared.state;
        state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while state.load(Ordering::Acquire) & ACTIVE != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        if thread::panicking() {
            // `broadcast` will not go on: the caller's own panic wins.
            self.0.shared.panic.lock().expect("no code panics while it holds the lock").take();
            self.0.busy.store(false, Ordering::Release);
        }
    }
}

impl Worker {
    fn start(index: usize, shared: &Arc<Shared>) -> Option<Self> {
        let parked = Arc::new(AtomicBool::new(false));
        let (theirs, shared) = (parked.clone(), shared.clone());
        let builder = thread::Builder::new().name(format!("kernel-{index}"));
        let handle = builder.spawn(move || work(index, &shared, &theirs)).ok()?;
        Some(Self { thread: handle.thread().clone(), handle: Some(handle), parked })
    }
}

/// The life of a worker: join each job that is open, leave it when it has no more tasks.
fn work(index: usize, shared: &Shared, parked: &AtomicBool) {
    let mut seen = 0;
    while let Some(state) = next_job(shared, parked, seen) {
        let joined = shared.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
        if joined.is_err() {
            continue;
        }
        seen = state & !(JOB - 1);
        // SAFETY: the job was open when this thread joined it, so its caller has written the body and will keep it
        // borrowed until this thread leaves.
        let body = unsafe { (*shared.body.get()).map(|body| &*body) };
        let outcome = catch_unwind(AssertUnwindSafe(|| body.expect("an open job has a body")(index)));
        if let Err(panic) = outcome {
            *shared.panic.lock().expect("no code panics while it holds the lock") = Some(panic);
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for an open job other than `seen`; none when the pool is dropped.
fn next_job(shared: &Shared, parked: &AtomicBool, seen: u64) -> Option<u64> {
    let mut spins = 0;
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        if state & OPEN != 0 && state & !(JOB - 1) != seen {
            return Some(state);
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
            continue;
        }
        // Announce, look once more, sleep: a caller that opens a job later sees the announcement and wakes us.
        parked.store(true, Ordering::SeqCst);
        let state = shared.state.load(Ordering::SeqCst);
        if state & OPEN == 0 && !shared.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        parked.store(false, Ordering::SeqCst);
        spins = 0;
    }
}

/// Equal matrices in one slice: a grid of `batch[0] * batch[1]` of them, each `rows x cols` with unit column stride.
pub struct MatMut<'a, E> {
    data: &'a mut [E],
    batch: [usize; 2],
    batch_stride: [usize; 2],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a, E> MatMut<'a, E> {
    /// One matrix.
    pub fn new(data: &'a mut [E], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self::batched(data, [1, 1], [0, 0], rows, cols, row_stride)
    }

    /// A grid of matrices.
    ///
    /// # Panics
    /// When an element lies outside `data`, or when two elements share a place.
    pub fn batched(
        data: &'a mut [E],
        batch: [usize; 2],
        batch_stride: [usize; 2],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Self {
        let mut axes = [(batch_stride[0], batch[0]), (batch_stride[1], batch[1]), (row_stride, rows), (1, cols)];
        axes.sort_unstable();
        let empty = axes.iter().any(|&(_, count)| count == 0);
        let mut extent = 1;
        for &(stride, count) in axes.iter().filter(|&&(_, count)| count > 1 && !empty) {
            assert!(stride >= extent, "two elements of the output share a place: {axes:?}");
            extent += stride * (count - 1);
        }
        assert!(empty || extent <= data.len(), "the output needs {extent} elements, not {}", data.len());
        Self { data, batch, batch_stride, rows, cols, row_stride }
    }

    /// Rows of one matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of one matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The two batch counts.
    pub fn batch(&self) -> [usize; 2] {
        self.batch
    }

    /// Lends the first matrix as one block.
    pub fn whole<R>(self, with: impl FnOnce(&mut Tile<'_, E>) -> R) -> R {
        let data = SharedMut::new(self.data);
        with(&mut Tile {
            batch: [0, 0],
            row: 0,
            col: 0,
            rows: self.rows,
            cols: self.cols,
            start: 0,
            row_stride: self.row_stride,
            data: &data,
            one_owner: PhantomData,
        })
    }
}

/// A block of one output matrix that one task owns.
pub struct Tile<'a, E> {
    /// Which matrix of the grid.
    pub batch: [usize; 2],
    /// The first row of the block.
    pub row: usize,
    /// The first column of the block.
    pub col: usize,
    /// Rows of the block.
    pub rows: usize,
    /// Columns of the block.
    pub cols: usize,
    start: usize,
    row_stride: usize,
    data: &'a SharedMut<E>,
    one_owner: PhantomData<&'a mut E>,
}

impl<E> Tile<'_, E> {
    /// Row `index` of the block, counted from the block's first row.
    #[inline(always)]
    pub fn row(&mut self, index: usize) -> &mut [E] {
        assert!(index < self.rows);
        // SAFETY: `MatMut` checked the extents and that no two elements share a place, tiles of one call are
        // disjoint, and the result borrows the tile.
        unsafe { self.data.slice(self.start + index * self.row_stride, self.cols) }
    }
}

/// A mutable slice of which several threads take disjoint parts.
struct SharedMut<E> {
    start: *mut E,
    len: usize,
}

// SAFETY: parts go to other threads only as `&mut [E]` of disjoint ranges, which `E: Send` allows.
unsafe impl<E: Send> Sync for SharedMut<E> {}

impl<E> SharedMut<E> {
    fn new(data: &mut [E]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len() }
    }

    /// # Safety
    /// The slice that `self` was made of is still borrowed, and no other live part overlaps this one.
    #[allow(clippy::mut_from_ref, reason = "the caller promises disjoint parts")]
    #[inline(always)]
    unsafe fn slice(&self, start: usize, len: usize) -> &mut [E] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds by the assertion, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_runs_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 3, 7] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 5, 100, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |task| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_with_sleeps_between_lose_no_wake_up() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(3, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
            if round % 1000 == 0 {
                thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        assert_eq!(sum.into_inner(), 3 * 20_000);
    }

    #[test]
    fn a_nested_call_runs_inline() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        pool.run(4, |_| {
            pool.run(4, |_| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 16);
    }

    #[test]
    fn two_threads_share_a_pool() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        pool.run(5, |_| {
                            sum.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 20_000);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(50, |task| assert_ne!(task, 30))));
            assert!(outcome.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(50, |task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 49 * 50 / 2);
    }

    #[test]
    fn tiles_cover_a_strided_batch_once() {
        let pool = Pool::new(2);
        let mut data = vec![0u8; 2 * 3 * 5 * 7];
        // [2, rows 5, 3, cols 7]: the matrices of a batch are interleaved row by row, as attention heads are.
        let out = MatMut::batched(&mut data, [2, 3], [105, 7], 5, 7, 21);
        pool.tiles(out, [2, 4], &mut [] as &mut [u8], |_, (): &mut (), mut tile| {
            for row in 0..tile.rows {
                tile.row(row).iter_mut().for_each(|x| *x += 1);
            }
        });
        assert!(data.iter().all(|&x| x == 1));
    }

    #[test]
    #[should_panic(expected = "share a place")]
    fn overlapping_rows_are_refused() {
        MatMut::new(&mut [0u8; 100], 4, 8, 7);
    }
}
