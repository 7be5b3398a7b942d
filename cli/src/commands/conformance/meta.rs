//! Tolerances of a suite: `meta.csv` in the folder or above it, with the columns name, rtol and atol.

use crate::failure::Failure;
use fastinference::cases::Allowed;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// How far above the folder the file may lie.
const LEVELS: usize = 3;

/// Tolerances by the name of a case.
pub struct Tolerances {
    by_name: HashMap<String, Allowed>,
    default: Allowed,
}

impl Tolerances {
    /// Reads the suite's file, where there is one.
    pub fn of(folder: &Path, default: Allowed) -> Result<Tolerances, Failure> {
        let whole = folder.canonicalize().map_err(|e| Failure::file(folder, e))?;
        let file = whole.ancestors().take(LEVELS).map(|f| f.join("meta.csv")).find(|f| f.is_file());
        let by_name = match file {
            Some(path) => {
                let text = fs::read_to_string(&path).map_err(|e| Failure::file(&path, e))?;
                parse(&text, default).map_err(|e| Failure::work(format!("{}: {e}", path.display())))?
            }
            None => HashMap::new(),
        };
        Ok(Tolerances { by_name, default })
    }

    /// The tolerance of a case.
    pub fn of_case(&self, name: &str) -> Allowed {
        self.by_name.get(name).copied().unwrap_or(self.default)
    }
}

fn parse(text: &str, default: Allowed) -> Result<HashMap<String, Allowed>, String> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    let column = |name: &str| header.iter().position(|h| *h == name).ok_or(format!("there is no column `{name}`"));
    let (name, rtol, atol) = (column("name")?, column("rtol")?, column("atol")?);
    let mut found = HashMap::new();
    for (i, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let number =
            |at: usize| cells.get(at).and_then(|c| c.parse().ok()).ok_or(format!("line {} is malformed", i + 2));
        let allowed = Allowed { rtol: number(rtol)?, atol: number(atol)?, ..default };
        found.insert(cells.get(name).unwrap_or(&"").to_string(), allowed);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let found = parse("kind,name,rtol,atol,n\nnode,test_a,0.1,1e-7,1\n", Allowed::default()).unwrap();
        assert_eq!((found["test_a"].rtol, found["test_a"].atol), (0.1, 1e-7));
        assert!(parse("name\n", Allowed::default()).is_err());
        assert!(parse("name,rtol,atol\nx,1\n", Allowed::default()).is_err());
    }
}
