<?php
// Makes the webmail's database before its first request: whole or not at all, so that neither a power cut nor two
// first requests at once leave half of it. (Roundcube's own way is table by table, whenever the file is empty.)
$database = new PDO('sqlite:' . $argv[1]);
$database->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
$database->exec('BEGIN EXCLUSIVE');
if ($database->query("SELECT count(*) FROM sqlite_master WHERE name = 'system'")->fetchColumn() == 0) {
    $database->exec(file_get_contents('/usr/share/roundcube/SQL/sqlite.initial.sql'));
}
$database->exec('COMMIT');
