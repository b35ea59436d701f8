// Chats in this browser's IndexedDB: nothing is kept on the server.

const NAME = "ollmlx";
const STORE = "chats";
let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function run(mode, action) {
  const store = (await database()).transaction(STORE, mode).objectStore(STORE);
  return new Promise((resolve, reject) => {
    const request = action(store);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export const readAll = () => run("readonly", (store) => store.getAll());
export const write = (chat) => run("readwrite", (store) => store.put(chat));
export const remove = (id) => run("readwrite", (store) => store.delete(id));
