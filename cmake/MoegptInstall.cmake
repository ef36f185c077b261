# Headers, a CMake package and a pkg-config file, all in share/: nothing here depends on the architecture.
# moegpt::io has an export set of its own, so that find_package(moegpt) works where nlohmann/json is missing.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/moegpt)
set(pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)

install(DIRECTORY include/moegpt DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS moegpt EXPORT moegptTargets)
install(EXPORT moegptTargets NAMESPACE moegpt:: DESTINATION ${package_dir})
if(MOEGPT_IO)
  install(TARGETS moegpt_io EXPORT moegptIoTargets)
  install(EXPORT moegptIoTargets NAMESPACE moegpt:: DESTINATION ${package_dir})
endif()
if(MOEGPT_MPI)
  install(TARGETS moegpt_mpi EXPORT moegptMpiTargets)
  install(EXPORT moegptMpiTargets NAMESPACE moegpt:: DESTINATION ${package_dir})
endif()

configure_package_config_file(cmake/moegptConfig.cmake.in moegptConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(moegptConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  "${CMAKE_CURRENT_BINARY_DIR}/moegptConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/moegptConfigVersion.cmake"
  cmake/MoegptSimdLevels.cmake cmake/simd_levels_main.cpp
  DESTINATION ${package_dir})

# The .pc file finds its prefix from where it lies, so an installation can be moved.
file(RELATIVE_PATH up_to_prefix "/${pkgconfig_dir}" "/")
string(REGEX REPLACE "/$" "" up_to_prefix "${up_to_prefix}")
set(openmp_flags "")
if(MOEGPT_HAVE_OPENMP)
  set(openmp_flags "${OpenMP_CXX_FLAGS}")
endif()
set(blas_definition "")
set(blas_libraries "")
if(MOEGPT_BLAS)
  set(blas_definition "-DMOEGPT_USE_BLAS")
  list(JOIN BLAS_LINKER_FLAGS " " blas_libraries)
  list(JOIN BLAS_LIBRARIES " " libraries)
  string(STRIP "${blas_libraries} ${libraries}" blas_libraries)
endif()
configure_file(cmake/moegpt.pc.in moegpt.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/moegpt.pc" DESTINATION ${pkgconfig_dir})
# Sources of the programs, for share/moegpt/examples/for_model.sh, which compiles them for the type of a model file.
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DATADIR}/moegpt USE_SOURCE_PERMISSIONS
  FILES_MATCHING PATTERN "*.cpp" PATTERN "*.hpp" PATTERN "for_model.sh")
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/moegpt)
