//! Mutants of plans for a device: each breaks one thing, and none of them computes what the plan does.

mod steps;

use fastinference::ir::Dim;
use fastinference::plan::{
    Buffer, BufferId, COPY, Entry, Finding, Launch, Layout, Loc, Place, Plan, Step, Stream, SyncKind, Transfer, check,
};
use std::num::NonZeroU32;
use steps::{
    Content, below, copy_at, drop_step, launch_at, launches, live_together, places, read_values, rename, renumber,
    repeat_step, sides, sync_at, touched, work,
};

/// A way to break a plan.
pub struct Mutant {
    /// What is broken.
    pub kind: &'static str,
    /// Where.
    pub what: String,
    /// Breaks it.
    pub make: Box<dyn Fn(&mut Plan)>,
}

struct Maker<'a> {
    plan: &'a Plan,
    number: usize,
    entry: &'a Entry,
    made: Vec<Mutant>,
}

/// Every mutant of one entry.
pub fn mutants(plan: &Plan, number: usize) -> Vec<Mutant> {
    let mut maker = Maker { plan, number, entry: &plan.entries[number], made: vec![] };
    maker.syncs();
    maker.pace();
    maker.buffers();
    maker.steps();
    maker.places();
    maker.kernels();
    maker.scratch();
    maker.slots();
    maker.made
}

impl Maker<'_> {
    fn add(&mut self, kind: &'static str, what: String, make: impl Fn(&mut Entry) + 'static) {
        let number = self.number;
        self.made.push(Mutant { kind, what, make: Box::new(move |plan| make(&mut plan.entries[number])) });
    }

    /// As `add`, of a mutant whose buffers all lie apart: syncs that only kept their bytes apart go too.
    fn add_apart(&mut self, kind: &'static str, what: String, make: impl Fn(&mut Entry) + 'static) {
        let number = self.number;
        let make = move |plan: &mut Plan| {
            let entry = &mut plan.entries[number];
            make(entry);
            for (id, buffer) in entry.buffers.iter_mut().enumerate() {
                buffer.after = (0..id as u32).map(BufferId).next_back().into_iter().collect();
            }
            let idle = |f: &Finding| f.step.filter(|_| f.problem.contains("orders nothing"));
            while let Some(step) = check(plan.clone()).err().and_then(|found| idle(&found[0])) {
                drop_step(&mut plan.entries[number], step);
            }
        };
        self.made.push(Mutant { kind, what, make: Box::new(make) });
    }

    fn syncs(&mut self) {
        let entry = self.entry;
        for (at, step) in entry.steps.iter().enumerate() {
            if !matches!(step, Step::Sync(_)) {
                continue;
            }
            if step.is_pace() {
                self.add("remove a pace", format!("{at}"), move |e| drop_step(e, at));
                self.add("turn a pace round", format!("{at}"), move |e| {
                    let sync = sync_at(e, at);
                    (sync.signaller, sync.waiter) = (sync.waiter, sync.signaller);
                });
                // The planner puts a pace right before the step that would be too much, and at the end for the next run.
                if at + 1 < entry.steps.len() {
                    self.add("pace a step too late", format!("{at}"), move |e| e.steps.swap(at, at + 1));
                }
                continue;
            }
            self.add("remove a sync", format!("{at}"), move |e| drop_step(e, at));
            let pace = SyncKind::Pace { reason: "a mutant".into() };
            self.add("let a sync only pace", format!("{at}"), move |e| sync_at(e, at).kind = pace.clone());
            self.add("turn a sync round", format!("{at}"), move |e| {
                let sync = sync_at(e, at);
                (sync.signaller, sync.waiter) = (sync.waiter, sync.signaller);
            });
            self.add("wait for another stream", format!("{at}"), move |e| sync_at(e, at).signaller = Stream(2));
            // The planner puts a sync right before the step that needs it.
            let after = (at + 1..entry.steps.len()).find(|s| !matches!(entry.steps[*s], Step::Sync(_)));
            if let Some(after) = after {
                self.add("wait a step too late", format!("{at}"), move |e| e.steps[at..=after].rotate_left(1));
            }
            self.add("wait twice", format!("{at}"), move |e| {
                let again = e.steps[at].clone();
                e.steps.push(again);
            });
        }
    }

    /// The entry claims that less is queued than there is.
    fn pace(&mut self) {
        let less = self.entry.pace.and_then(|pace| NonZeroU32::new(pace.get() - 1));
        // Before a pace within the run the queue is full; at the end it need not be.
        let within = self.entry.steps.split_last().is_some_and(|(_, steps)| steps.iter().any(Step::is_pace));
        if let Some(less) = less.filter(|_| within) {
            self.add("tighten the pace", less.to_string(), move |e| e.pace = Some(less));
        }
    }

    fn buffers(&mut self) {
        let entry = self.entry;
        for (id, buffer) in entry.buffers.iter().enumerate() {
            for (at, low) in buffer.after.iter().enumerate() {
                let mut without = entry.buffers.clone();
                without[id].after.remove(at);
                let apart = below(&without, *low, BufferId(id as u32));
                if !apart && live_together(entry, low.0 as usize, id) {
                    let what = format!("b{id}, b{}", low.0);
                    self.add("overlap two buffers", what, move |e| {
                        e.buffers[id].after.remove(at);
                    });
                }
            }
            for (how, bytes) in [("by a byte", &buffer.bytes - &Dim::constant(1)), ("to nothing", Dim::constant(0))] {
                if buffer.bytes.as_const() != Some(0) {
                    let what = format!("b{id} {how}");
                    self.add("shrink a buffer", what, move |e| e.buffers[id].bytes = bytes.clone());
                }
            }
            for (first, last) in [(buffer.first + 1, buffer.last), (buffer.first, buffer.last.wrapping_sub(1))] {
                self.add("shorten a life", format!("b{id}"), move |e| {
                    (e.buffers[id].first, e.buffers[id].last) = (first, last);
                });
            }
        }
    }

    fn steps(&mut self) {
        let entry = self.entry;
        let read = read_values(entry);
        for at in work(entry) {
            let (reads, writes) = touched(&entry.steps[at]);
            let moves = matches!(&entry.steps[at], Step::Launch(l) if l.kernel == COPY)
                || matches!(&entry.steps[at], Step::Copy(_));
            // What nobody reads need not be moved.
            self.add("drop a step", format!("{at}"), move |e| drop_step(e, at));
            // To move twice is to move once.
            if !moves {
                self.add("repeat a step", format!("{at}"), move |e| repeat_step(e, at));
            }
            let mut later = work(entry).into_iter().filter(|s| *s > at);
            let after = later.find(|s| touched(&entry.steps[*s]).0.iter().any(|r| writes.contains(r)));
            if let Some(after) = after.filter(|_| writes.iter().any(|w| read.contains(w))) {
                self.add("swap dependent steps", format!("{at}, {after}"), move |e| e.steps.swap(at, after));
            }
            let mut later = work(entry).into_iter().filter(|s| *s > at);
            let over = later.find(|s| touched(&entry.steps[*s]).1.iter().any(|w| reads.contains(w)));
            let overwritten = |w: &Place| matches!(w, Place::Buffer(_) | Place::State(_));
            if let Some(over) = over.filter(|s| touched(&entry.steps[*s]).1.iter().any(overwritten)) {
                self.add("read what was overwritten", format!("{at}, {over}"), move |e| e.steps.swap(at, over));
            }
        }
    }

    fn places(&mut self) {
        let entry = self.entry;
        let all = places(self.plan, entry);
        let mut content = Content::default();
        let side = sides(entry);
        let read = read_values(entry);
        for at in 0..entry.steps.len() {
            let same = |old: &Place, new: &Place| content.same(old, new) && side(old) == side(new);
            match &entry.steps[at] {
                Step::Launch(launch) => {
                    for (i, loc) in launch.reads.iter().enumerate() {
                        let old = loc.place.clone();
                        for place in all.iter().filter(|p| **p != old && !same(&old, p)) {
                            let place = place.clone();
                            let what = format!("{at}: {i} to {place}");
                            self.add("redirect an operand", what, move |e| {
                                launch_at(e, at).reads[i].place = place.clone();
                            });
                        }
                        if old != Place::None {
                            self.add("move an operand", format!("{at}: {i}"), move |e| {
                                launch_at(e, at).reads[i].offset =
                                    &launch_at(e, at).reads[i].offset + &Dim::constant(4);
                            });
                        }
                    }
                    for (i, loc) in launch.writes.iter().enumerate().filter(|(_, loc)| read.contains(&loc.place)) {
                        for place in all.iter().filter(|p| **p != loc.place) {
                            let place = place.clone();
                            let what = format!("{at}: {i} to {place}");
                            self.add("redirect a result", what, move |e| {
                                launch_at(e, at).writes[i] = Loc::from(place.clone());
                            });
                        }
                    }
                }
                Step::Copy(t) => {
                    for place in all.iter().filter(|p| **p != t.from.place && !same(&t.from.place, p)) {
                        let place = place.clone();
                        let what = format!("{at}: {place}");
                        self.add("copy something else", what, move |e| copy_at(e, at).from.place = place.clone());
                    }
                    for place in all.iter().filter(|p| **p != t.to.place && read.contains(&t.to.place)) {
                        let place = place.clone();
                        let what = format!("{at}: {place}");
                        self.add("copy elsewhere", what, move |e| copy_at(e, at).to.place = place.clone());
                    }
                }
                Step::Sync(_) => {}
            }
            content.step(&entry.steps[at]);
        }
        for output in 0..entry.outputs.len() {
            self.add("move an output", format!("{output}"), move |e| {
                e.outputs[output].value = Place::Input(0).into();
            });
        }
    }

    fn kernels(&mut self) {
        let entry = self.entry;
        for (at, launch) in launches(entry) {
            if launch.kernel != COPY {
                self.add("run another kernel", format!("{at}"), move |e| {
                    launch_at(e, at).kernel = "softmax_of_another_version".into();
                });
            }
            let other = if launch.stream == Stream::HOST { Stream(1) } else { Stream::HOST };
            for stream in [other, Stream(2)] {
                self.add("move to another stream", format!("{at}"), move |e| launch_at(e, at).stream = stream);
            }
            let another = launches(entry).map(|(_, l)| l.node.clone()).find(|n| *n != launch.node);
            if let Some(node) = another {
                self.add("name another node", format!("{at}"), move |e| launch_at(e, at).node = node.clone());
            }
            self.take_operand(at, launch);
            self.copy_weight(at, launch);
        }
        for (at, step) in entry.steps.iter().enumerate() {
            if matches!(step, Step::Copy(_)) {
                for stream in [Stream::HOST, Stream(2)] {
                    self.add("move to another stream", format!("{at}"), move |e| copy_at(e, at).stream = stream);
                }
            }
        }
        for (key, info) in &self.plan.weights {
            for layout in [Layout::Transposed, Layout::Panel16, Layout::Panel16Kn, Layout::Conv16] {
                if layout.bytes(info.dtype, &info.dims).is_some() && layout != info.layout && self.number == 0 {
                    let key = key.clone();
                    let make = move |plan: &mut Plan| {
                        plan.weights.get_mut(&key).expect("it is there").layout = layout;
                    };
                    self.made.push(Mutant { kind: "pack a weight", what: layout.name().into(), make: Box::new(make) });
                }
            }
        }
    }

    /// The result takes the memory of an operand that nobody needs later, in a plan whose buffers all lie apart: only whoever
    /// knows the kernel sees that it cannot.
    fn take_operand(&mut self, at: usize, launch: &Launch) {
        let (entry, Some(result)) = (self.entry, launch.writes.first()) else { return };
        let cannot = matches!(&*launch.kernel, "linear" | "matmul" | "softmax" | "rms_norm" | "transpose" | "gather");
        let Place::Buffer(to) = result.place else { return };
        if !cannot || launch.in_place {
            return;
        }
        for (i, loc) in launch.reads.iter().enumerate() {
            let Place::Buffer(from) = loc.place else { continue };
            let (old, new) = (&entry.buffers[from.0 as usize], &entry.buffers[to.0 as usize]);
            let once = launch.reads.iter().filter(|r| r.place == loc.place).count() == 1;
            if old.bytes == new.bytes && old.last as usize == at && once && loc.offset.as_const() == Some(0) {
                self.add_apart("replace an operand", format!("{at}: {i}"), move |e| {
                    let last = e.buffers[to.0 as usize].last;
                    for step in &mut e.steps[at..] {
                        rename(step, to, from);
                    }
                    e.buffers[from.0 as usize].last = last;
                    e.buffers.remove(to.0 as usize);
                    renumber(e, to);
                    launch_at(e, at).in_place = true;
                });
            }
        }
    }

    /// A kernel's weight comes through a buffer, by a copy that has no memory of the host to read.
    fn copy_weight(&mut self, at: usize, launch: &Launch) {
        let on_device = launch.stream != Stream::HOST;
        for (i, loc) in launch.reads.iter().enumerate().filter(|_| on_device) {
            let Place::Weight(key) = &loc.place else { continue };
            let Some(bytes) = self.plan.weights.get(key).and_then(|w| w.layout.bytes(w.dtype, &w.dims)) else {
                continue;
            };
            let (from, stream, value) = (loc.clone(), launch.stream, key.clone());
            self.add_apart("copy a weight", format!("{at}: {i}"), move |e| {
                let buffer = BufferId(e.buffers.len() as u32);
                repeat_step(e, at);
                let (first, last) = (at as u32, at as u32 + 1);
                e.buffers.push(Buffer { bytes: Dim::constant(bytes as i64), after: vec![], first, last });
                let to = Loc::from(Place::Buffer(buffer));
                launch_at(e, at + 1).reads[i] = to.clone();
                e.steps[at] = Step::Copy(Transfer { stream, value: value.clone(), from: from.clone(), to });
            });
        }
    }

    fn scratch(&mut self) {
        let entry = self.entry;
        let side = sides(entry);
        for (at, launch) in launches(entry) {
            let Some(scratch) = launch.scratch else { continue };
            self.add("take away scratch memory", format!("{at}"), move |e| launch_at(e, at).scratch = None);
            self.add("ask for no scratch memory", format!("{at}"), move |e| {
                let launch = launch_at(e, at);
                (launch.scratch, launch.scratch_bytes) = (None, Dim::constant(0));
            });
            let less = &launch.scratch_bytes - &Dim::constant(1);
            self.add("shrink scratch memory", format!("{at}"), move |e| {
                launch_at(e, at).scratch_bytes = less.clone();
                e.buffers[scratch.0 as usize].bytes = less.clone();
            });
            for other in (0..entry.buffers.len() as u32).map(BufferId).filter(|b| *b != scratch) {
                let buffer = &entry.buffers[other.0 as usize];
                let elsewhere = side(&Place::Buffer(other)) != side(&Place::Buffer(scratch));
                // A buffer that lives now but is written later has nothing to lose.
                if elsewhere || (buffer.first as usize) < at && at <= buffer.last as usize {
                    let what = format!("{at}: b{}", other.0);
                    self.add("scratch over a value", what, move |e| launch_at(e, at).scratch = Some(other));
                    let (bytes, end) = (launch.scratch_bytes.clone(), entry.steps.len() as u32 - 1);
                    if elsewhere && (buffer.last as usize) < at {
                        self.add_apart("scratch in other memory", format!("{at}: b{}", other.0), move |e| {
                            launch_at(e, at).scratch = Some(other);
                            let buffer = &mut e.buffers[other.0 as usize];
                            buffer.bytes = &buffer.bytes + &bytes;
                            (buffer.first, buffer.last) = (0, end);
                        });
                    }
                }
            }
        }
    }

    fn slots(&mut self) {
        let entry = self.entry;
        for (at, launch) in launches(entry) {
            for slot in launch.frees.clone() {
                let written = |l: &Launch| l.writes.iter().any(|w| w.place == Place::Slot(slot));
                let defined = launches(entry).find(|(_, l)| written(l)).expect("freed slots are written").0;
                for (earlier, _) in launches(entry).filter(|(s, _)| (defined..at).contains(s)) {
                    self.add("free a slot early", format!("s{} at {earlier}", slot.0), move |e| {
                        launch_at(e, at).frees.retain(|s| *s != slot);
                        launch_at(e, earlier).frees.push(slot);
                    });
                }
                self.add("free a slot twice", format!("s{}", slot.0), move |e| launch_at(e, at).frees.push(slot));
            }
        }
    }
}
