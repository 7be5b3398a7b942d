//! Graph to plan: buffers, arena, steps, the safety checker and the store on disk.
