// A planted fault: void test() { std::ofstream("model") << 1; }
