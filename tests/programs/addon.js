// An add-on in C++ for Node.
const sqlite = require("sqlite3");
const db = new sqlite.Database("/workspace/addon.db");
db.serialize(() => {
  db.run("create table t (n)");
  for (let n = 0; n < 100; n++) db.run("insert into t values (?)", n);
  db.get("select sum(n) as sum from t", (error, row) => {
    if (error || row.sum !== 4950) throw error || new Error(row.sum);
    db.close(() => console.log("end"));
  });
});
