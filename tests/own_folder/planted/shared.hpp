// A planted fault: inline auto shared() { return std::filesystem::temp_directory_path() / "model"; }
